"""Circuit breaker: leave a failing server alone, test it, and use it again."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from adapters.backend import BreakerState
from adapters.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    BadUpstreamError,
)
from adapters.upstream.limits import DEFAULT_LIMITS, Limits

_MAX_FAULTS = 3
_TRIAL_SECONDS = 30.0
"""After which a trial that goes on does not keep other requests away: it may be a long answer."""
_ANY_MODEL = ""

FAULTS = (BackendUnavailableError, BackendTimeoutError, BadUpstreamError)
"""Faults of the server. A full queue is none, nor is a model that cannot be loaded."""


class CircuitBreaker:
    """Opens after three faults in a row; closes after a real answer.

    While it is open, it looks whether the server is there, and if so, requests a token: at once
    where the server was away, otherwise after 5 s, 10 s, … 60 s.

    Requests are refused meanwhile, but for one at a time, which is a trial: of a server that fails
    at once, after each look; of a server that is silent, none. A model that fails three times in a
    row is refused in the same way by itself, because the others of its server may be well.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[bool]],
        probe: Callable[[], Awaitable[None]],
        limits: Limits = DEFAULT_LIMITS,
        model_faults: tuple[type[BackendError], ...] = (BadUpstreamError,),
    ) -> None:
        """`look` costs the server nothing; `probe` requests a token, and raises BackendError.

        `model_faults`: errors that may be the fault of the one model.
        """
        self._look = look
        self._probe = probe
        self._limits = limits
        self._faults = 0
        self._model_faults = model_faults
        self._faults_of: dict[str, tuple[int, float]] = {}
        """Model -> faults in a row that may be its own, and the time of the last."""
        self._trials: dict[str, float] = {}
        """Model, or `_ANY_MODEL` -> time of the next trial, by the loop's clock."""
        self._probing = False
        self._testing: asyncio.Task[None] | None = None
        self.last: BackendError | None = None
        """The latest fault since the last answer."""

    @property
    def is_open(self) -> bool:
        return self._faults >= _MAX_FAULTS

    @property
    def state(self) -> BreakerState:
        if not self.is_open:
            return "closed"
        return "half-open" if self._probing else "open"

    @property
    def absent(self) -> bool:
        """The last fault shows at once: another try costs nothing."""
        return isinstance(self.last, BackendUnavailableError)

    @property
    def is_silent(self) -> bool:
        """The last fault was a timeout, which another try would wait for again."""
        return isinstance(self.last, BackendTimeoutError)

    def is_well(self, model: str) -> bool:
        """False where requests to `model` are refused, but for trials."""
        return not self.is_open and not self._is_broken(model)

    def may_try(self, model: str) -> bool:
        """True where a request to `model` may be sent now, at least as a trial."""
        if self.is_well(model):
            return True
        if self.is_open and (self.is_silent or self._probing):
            return False
        key = self._key(model)
        return key is None or _now() >= self._trials.get(key, 0.0)

    @contextmanager
    def request(self, model: str) -> Generator[None]:
        """Enclose a request to `model`, which is a trial where the breaker is open.

        A trial without a result, such as one that its client has cancelled, makes way for the next.

        Raises:
            BackendUnavailableError: the breaker is open, and another request is the trial.
        """
        if not self.may_try(model):
            raise self.refusal(model)
        key = None if self.is_well(model) else self._key(model)
        if key is None:
            yield
            return
        until = self._trials[key] = _now() + _TRIAL_SECONDS
        try:
            yield
        finally:
            if self._trials.get(key) == until:
                del self._trials[key]

    def refusal(self, model: str) -> BackendUnavailableError:
        """Create the error of a request to `model` while another is the trial."""
        what = f"'{model}'" if self._is_broken(model) else "Ollama"
        return BackendUnavailableError(f"{what} failed several times and is being tested.")

    def _is_broken(self, model: str) -> bool:
        faults, last = self._faults_of.get(model, (0, 0.0))
        return faults >= _MAX_FAULTS and _now() - last < self._limits.longest_probe

    def _key(self, model: str) -> str | None:
        """Return the key in `_trials`; `None` for a model that has not failed, of a server that
        answers: the fault is in others."""
        if self._is_broken(model) or (not self.absent and model in self._faults_of):
            return model
        return _ANY_MODEL if self.absent else None

    def succeeded(self, model: str) -> None:
        """Close after a complete answer of `model`."""
        self._close()
        self._faults_of.pop(model, None)

    def _close(self) -> None:
        self._faults, self.last = 0, None
        self._trials.clear()

    def heard(self) -> None:
        """Note a response that is no answer: the server is not silent."""
        if not self.is_open:
            self.last = None

    def failed(self, error: BackendError, model: str = _ANY_MODEL) -> None:
        """Count `error` if it is one of `FAULTS`; the third in a row opens the breaker.

        The third fault in a row of one model is `lasting`: a retry would end the same way.
        """
        is_of_model = bool(model) and isinstance(error, self._model_faults)
        self._end_trial(model, failed=is_of_model or isinstance(error, FAULTS))
        if is_of_model:
            faults, _ = self._faults_of.get(model, (0, 0.0))
            self._faults_of[model] = faults + 1, _now()
            error.lasting = error.lasting or self._is_broken(model)
        if not isinstance(error, FAULTS):
            return
        self._faults += 1
        self.last = error
        if self.is_open and self._testing is None:
            self._testing = asyncio.create_task(self._test())
            self._testing.add_done_callback(self._end_test)

    def _end_trial(self, model: str, *, failed: bool) -> None:
        """Allow the next trial, of `model` and of any; one that failed after a while."""
        for key in (model, _ANY_MODEL):
            if failed:
                self._trials[key] = _now() + self._limits.look_every
            else:
                self._trials.pop(key, None)

    async def aclose(self) -> None:
        if self._testing is not None:
            self._testing.cancel()
            await asyncio.wait([self._testing])

    def _end_test(self, task: asyncio.Task[None]) -> None:
        self._testing = None
        if not task.cancelled():
            task.exception()

    async def _test(self) -> None:
        clock = asyncio.get_running_loop().time
        wait, was_there = self._limits.first_probe, not self.absent
        due = clock() + wait
        while self.is_open:
            await asyncio.sleep(self._limits.look_every)
            there = await self._look()
            if not there or (was_there and clock() < due):
                was_there = there
                continue
            was_there = True
            if await self._answers():
                self._close()
                self._faults_of.clear()
            wait = min(2 * wait, self._limits.longest_probe)
            due = clock() + wait

    async def _answers(self) -> bool:
        self._probing = True
        try:
            await self._probe()
        except BackendError as error:
            self.last = error
            return False
        finally:
            self._probing = False
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
