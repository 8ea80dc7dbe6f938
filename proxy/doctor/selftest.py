"""`tandem doctor --selftest`: prove this machine with a small model on each engine.

A server is started for it, with the user's settings. The report contains no prompt and no answer.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from adapters.config import MLXConfig
from proxy.bench.developers.engine import Plan, compare_with_bare
from proxy.bench.results import Report
from proxy.cli.command import CommandError
from proxy.cli.running_server import RunningServer, started_server
from proxy.config import Config
from proxy.doctor.report import Check, Status

_PROMPTS = (
    "Name three colours.",
    "Count from one to ten.",
    "Write a sentence about the sea.",
    "What is the capital of France?",
)
_TOKENS = 24
_SHARED = "The ferry leaves the harbour at nine and returns at noon, except on Sundays. " * 40
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"enum": [1, 2, 3]}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
_CANCEL_SECONDS = 10.0
_SLOWEST = 0.7
"""Share of the bare engine's speed below which Tandem is reported as slow."""
_CLOSE_OTHERS = "Close other programs that compute, and try again."


class _Subject(Struct, frozen=True):
    """One model on one backend."""

    server: RunningServer
    backend: str
    model: str
    kind: str

    def chat(self, prompt: str, **fields: Any) -> dict[str, Any]:
        """One answer: its text, and its usage."""
        body = {
            "model": f"{self.backend}/{self.model}",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": _TOKENS,
            "temperature": 0,
            **fields,
        }
        answer = self.server.post("/v1/chat/completions", body)
        return {"text": answer["choices"][0]["message"]["content"] or "", **answer["usage"]}

    def check(self, status: Status, what: str, **details: Any) -> Check:
        summary = f"{self.backend}, {self.model}: {what}"
        return Check(category="selftest", status=status, summary=summary, details=details)


async def selftests(
    config: Config, file: str | None, model: str | None, report: Report
) -> dict[str, Check]:
    """Run all tests on a model of each backend; `model` by its name, else the smallest."""
    # The server ends where this task is cancelled, and with it the requests of the thread.
    with started_server(config, file) as server:
        checks = await asyncio.to_thread(_test_all, config, server, model, report)
    speed = next((check for id_, check in checks.items() if id_.endswith(".mlx.load")), None)
    if speed is not None and speed.status == "ok":
        checks["selftest.mlx.speed"] = await _speed(str(speed.details["model"]), report)
    if not checks:
        summary = "No model that chats is there for the selftest"
        advice = "`tandem pull llama3.2:1b` gets one."
        checks["selftest.model"] = Check(
            category="selftest", status="fail", summary=summary, remediation=advice
        )
    return checks


def _test_all(
    config: Config, server: RunningServer, model: str | None, report: Report
) -> dict[str, Check]:
    checks: dict[str, Check] = {}
    subjects = list(_subjects(config, server, model))
    for at, subject in enumerate(subjects):
        for number, (name, test) in enumerate(_TESTS.items()):
            done, total = at * len(_TESTS) + number, len(subjects) * len(_TESTS)
            report(f"{subject.backend}: {name}", done, total)
            check = _run(test, subject)
            checks[f"selftest.{subject.backend}.{name}"] = check
            if name == "load" and check.status == "fail":
                break  # The others need the model, and would fail by the same reason.
    return checks


def _subjects(config: Config, server: RunningServer, model: str | None) -> Iterator[_Subject]:
    """The smallest chat model of each backend, or the one called `model`."""
    for name, listed in server.get("/api/models")["backends"].items():
        chats = [m for m in listed["models"] if "chat" in m["capabilities"]]
        if model is not None:
            chats = [m for m in chats if model in (m["name"], m["model_id"], *m["names"])]
        if chats:
            smallest = min(chats, key=lambda m: m["size_bytes"] or 0)
            kind = "mlx" if isinstance(config.backends.get(name), MLXConfig) else "other"
            yield _Subject(server, name, smallest["name"], kind)


def _run(test: Callable[[_Subject], Check], subject: _Subject) -> Check:
    began = time.monotonic()
    try:
        check = test(subject)
    except (CommandError, KeyError, ValueError) as exc:
        check = subject.check("fail", f"{test.__name__.strip('_')} failed: {exc}")
    return replace(check, duration_ms=max(1, round(1000 * (time.monotonic() - began))))


def _load(subject: _Subject) -> Check:
    """The model loads, and its memory is known."""
    before = subject.server.get("/health")["memory"]["used"]
    loaded = subject.server.post(f"/api/models/{subject.backend}/{subject.model}/load", {})
    after = subject.server.get("/health")["memory"]["used"]
    text = f"loads, with {(after - before) / 1e6:.0f} MB more in use"
    return subject.check("ok", text, model=subject.model, memoryBytes=loaded["memory_bytes"])


def _parity(subject: _Subject) -> Check:
    """Greedy answers are the same in a batch as alone."""
    alone = [subject.chat(prompt)["text"] for prompt in _PROMPTS]
    with ThreadPoolExecutor(len(_PROMPTS)) as pool:
        answers = list(pool.map(subject.chat, _PROMPTS))
    together = [answer["text"] for answer in answers]
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    text = f"{same} of {len(alone)} greedy answers are the same in a batch as alone"
    if same == len(alone):
        return subject.check("ok", text)
    # Rounding by batch size is a property of other engines, and of no setting.
    return subject.check("fail" if subject.kind == "mlx" else "warning", text)


def _seeds(subject: _Subject) -> Check:
    """A seed repeats an answer, and another seed does not."""
    options = {"temperature": 1.0, "seed": 7, "max_tokens": _TOKENS}
    first, second = (subject.chat(_PROMPTS[2], **options)["text"] for _ in range(2))
    other = subject.chat(_PROMPTS[2], **options | {"seed": 8})["text"]
    if first != second:
        return subject.check("fail", "the same seed gave two answers")
    if first == other:
        return subject.check("warning", "two seeds gave the same answer")
    return subject.check("ok", "a seed repeats its answer")


def _cancellation(subject: _Subject) -> Check:
    """A client that disconnects ends the work."""
    body = {
        "model": f"{subject.backend}/{subject.model}",
        "messages": [{"role": "user", "content": "Write a very long story."}],
        "max_tokens": 2000,
        "stream": True,
    }
    events = subject.server.events("/v1/chat/completions", body)
    next(events)
    events.close()  # type: ignore[attr-defined]  # A generator, which closes the connection.
    until = time.monotonic() + _CANCEL_SECONDS
    while time.monotonic() < until:
        memory = subject.server.get("/health")["memory"]["models"]
        if not any(m["busy"] for m in memory if m["backend"] == subject.backend):
            return subject.check("ok", "a client that disconnects ends its answer")
        time.sleep(0.1)
    return subject.check("fail", f"an answer went on for {_CANCEL_SECONDS:g} s without its client")


def _grammar(subject: _Subject) -> Check:
    """A strict schema is obeyed."""
    schema = {"name": "pair", "strict": True, "schema": _SCHEMA}
    form = {"type": "json_schema", "json_schema": schema}
    text = subject.chat("Choose.", response_format=form, max_tokens=60)["text"]
    try:
        value = json.loads(text)
        is_right = value["colour"] in ("red", "green") and value["count"] in (1, 2, 3)
    except (ValueError, KeyError, TypeError):
        is_right = False
    if is_right:
        return subject.check("ok", "a strict schema is obeyed")
    return subject.check("fail", "an answer does not match its strict schema")


def _prefix_cache(subject: _Subject) -> Check:
    """The beginning of a conversation is not read twice."""
    first = subject.chat(f"{_SHARED} When does it leave?", max_tokens=4)
    second = subject.chat(f"{_SHARED} When does it return?", max_tokens=4)
    reported: dict[str, int] = second.get("prompt_tokens_details") or {}
    cached = reported.get("cached_tokens", 0)
    total = second["prompt_tokens"]
    details = {"promptTokens": total, "cachedTokens": cached, "before": first["prompt_tokens"]}
    if subject.kind != "mlx":
        return subject.check("unknown", "this engine does not report cached tokens", **details)
    if cached * 2 < total:
        return subject.check("fail", f"only {cached} of {total} tokens were cached", **details)
    return subject.check(
        "ok", f"{cached} of {total} tokens of a second prompt were cached", **details
    )


def _unload(subject: _Subject) -> Check:
    """Memory comes back."""
    before = subject.server.get("/health")["memory"]["used"]
    subject.server.post(f"/api/models/{subject.backend}/{subject.model}/unload", {})
    memory = subject.server.get("/health")["memory"]
    stays = [m for m in memory["models"] if m["backend"] == subject.backend]
    freed = before - memory["used"]
    if any(m["model"] == subject.model for m in stays):
        return subject.check("fail", "the model is still in memory after it was unloaded")
    return subject.check("ok", f"its memory is back after unload ({freed / 1e6:.0f} MB)")


_TESTS: dict[str, Callable[[_Subject], Check]] = {
    "load": _load,
    "parity": _parity,
    "seeds": _seeds,
    "cancellation": _cancellation,
    "grammar": _grammar,
    "prefixCache": _prefix_cache,
    "unload": _unload,
}


async def _speed(model: str, report: Report) -> Check:
    """Compare Tandem with mlx-lm's own generator, with the same weights, at the same time."""
    began = time.monotonic()
    try:
        plan = Plan(model, False, 1, 2 * _TOKENS, 0, clients=(1, 4))
        rows = await compare_with_bare(
            plan, lambda text, done, total: report(f"mlx, speed: {text}", done, total)
        )
    except RuntimeError as exc:
        summary = f"mlx, {model}: the bare engine could not be measured: {exc}"
        return Check(category="selftest", status="unknown", summary=summary)
    speeds = {(row.contestant, row.clients): row.tokens_per_second for row in rows}
    shares = _shares(speeds, (1, 4))
    worst = min(shares.values())
    told = ", ".join(f"{100 * share:.0f} % with {n} at once" for n, share in shares.items())
    return Check(
        category="selftest",
        status="ok" if worst >= _SLOWEST else "warning",
        summary=f"mlx, {model}: of the bare engine's speed {told}",
        details={f"{name}, {n}": round(speed, 1) for (name, n), speed in speeds.items()},
        remediation=None if worst >= _SLOWEST else _CLOSE_OTHERS,
        duration_ms=round(1000 * (time.monotonic() - began)),
    )


def _shares(speeds: dict[tuple[str, int], float], clients: Sequence[int]) -> dict[int, float]:
    return {n: speeds["Tandem", n] / speeds["bare BatchGenerator", n] for n in clients}
