"""Requests to models of another kind: text from one that only speaks or embeds, for instance."""

from adapters.backend import Capability
from adapters.errors import InvalidRequestError
from proxy.models.registry import RegisteredModel
from proxy.routing.requirements import Requirements

_ROUTES: dict[Capability, str] = {
    "speech": "Send the text to POST /v1/audio/speech.",
    "transcription": "Send audio to POST /v1/audio/transcriptions.",
    "embedding": "Send the text to POST /v1/embeddings.",
}


def refuse_other_kinds(entry: RegisteredModel, requirements: Requirements) -> None:
    """Refuse a request for text, or for vectors, to a model that has only another capability.

    Raises:
        InvalidRequestError: names the route of such models.
    """
    kind = _only_kind(entry)
    if kind is None or (kind == "embedding" and "embeddings" in requirements.features):
        return
    article = "an" if kind == "embedding" else "a"
    raise InvalidRequestError(
        f"'{entry.id}' is {article} {kind} model, and writes no text. {_ROUTES[kind]}",
        param="model",
    )


def no_such_capability(entry: RegisteredModel, capability: Capability) -> InvalidRequestError:
    """Create the error for a model without `capability`; it names the route of the model's kind."""
    kind = _only_kind(entry)
    advice = ": see 'capabilities' in GET /v1/models." if kind is None else f". {_ROUTES[kind]}"
    return InvalidRequestError(f"'{entry.id}' is not a {capability} model{advice}", param="model")


def _only_kind(entry: RegisteredModel) -> Capability | None:
    """Return the capability that all deployments of a model have, and none beside it."""
    models = [deployment.model for deployment in entry.deployments]
    for kind in _ROUTES:
        only = frozenset({kind})
        if models and all(m is not None and m.capabilities == only for m in models):
            return kind
    return None
