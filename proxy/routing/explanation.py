"""A decision of the router in sentences, for `POST /api/route` and the page."""

from collections.abc import Callable, Iterator, Mapping

from proxy.memory.ledger import Fit
from proxy.routing.candidates import Candidate
from proxy.routing.decision import Decision, Rule, Unable

FITS: Mapping[Fit, str] = {
    "loaded": "The model is loaded.",
    "fits": "The model fits in memory beside all loaded models.",
    "evicts": "Idle models would be unloaded for it.",
    "full": "There is no memory for it, nor on any alternative.",
}
"""Sentences about the fit of an assessed candidate in memory."""


def to_reasons(decision: Decision, *, is_required: bool) -> Iterator[str]:
    """Explain the first candidate in sentences; `is_required`: the request names its backend."""
    first = decision.order[0]
    if is_required:
        yield f"The request requires {first.deployment.backend}."
    else:
        yield _WHY[decision.rule](decision)
    if first.away:
        yield "It did not respond last time, but there is no alternative."
    if first.short:
        yield "Its context seems too short, but no alternative has a longer one."


def _only(decision: Decision) -> str:
    if not decision.unable:
        return f"Only {_first(decision)} has the model."
    reasons = " ".join(map(lacking, decision.unable))
    return f"Only {_first(decision)} supports this request. {reasons}"


def lacking(unable: Unable) -> str:
    """Name what a deployment cannot honour, in a sentence."""
    if unable.refusal is not None:
        return unable.refusal.message
    features = ", ".join(map(repr, unable.lacks))
    return f"{unable.deployment.backend} does not support {features} with this model."


def _fastest(decision: Decision) -> str:
    seconds = decision.choice.seconds if decision.choice is not None else {}
    backend = _first(decision)
    return f"{backend} is the fastest by measurements: about {seconds[backend]:.2g} s."


def _first(decision: Decision) -> str:
    return decision.order[0].deployment.backend


_WHY: dict[Rule, Callable[[Decision], str]] = {
    "only": _only,
    "ready": lambda it: f"{_first(it)} has no obstacle.",
    "preferred": lambda it: f"{_first(it)} is preferred for this name.",
    "steady": lambda it: f"{_first(it)} comes first in order.",
    "trial": lambda it: f"{_first(it)} has to be measured for such prompts first.",
    "fastest": _fastest,
    "kept": lambda it: f"{_first(it)} has answered such prompts so far.",
    "order": lambda it: f"No backend is measured, and {_first(it)} comes first in order.",
}


def why_not(candidate: Candidate, decision: Decision) -> str:
    """Name the most serious obstacle; without one, the reason for the first candidate."""
    first = decision.order[0]
    if candidate.away and not first.away:
        return "It did not respond last time."
    if candidate.short and not first.short:
        return f"Its context of {candidate.context} tokens seems too short."
    if candidate.fit == "full" and first.fit != "full":
        return "There is no memory for it."
    if candidate.fit == "evicts" and decision.rule == "ready":
        return "Idle models would have to be unloaded for it."
    if decision.rule not in ("fastest", "kept") or decision.choice is None:
        return _WHY[decision.rule](decision)
    seconds = decision.choice.seconds.get(candidate.deployment.backend)
    if seconds is None:
        return "It is not measured."
    kept = " A change would gain little, or is too soon." if decision.rule == "kept" else ""
    return f"It would take about {seconds:.2g} s.{kept}"
