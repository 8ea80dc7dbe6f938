"""Stop strings that Tandem looks for itself, because Ollama does not tell which one it found."""

from msgspec.structs import replace

from adapters.events import Event, TextDelta, ToolCallStarted
from adapters.ollama.translate.response import Emit
from adapters.stop_strings import StopMatcher


class StopReader:
    """Passes on the events of an answer up to a stop string in its text, as on MLX: reasoning and
    calls are not searched."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.emit: Emit = bool
        """Takes the events; set before the first."""
        self.found: str | None = None
        """The stop string that has ended the answer: what follows it is dropped."""
        self._matcher = StopMatcher(stop)

    def take(self, event: Event) -> object:
        """Emit `event`, a text without what may become a stop string."""
        if self.found is not None:
            return False
        if not isinstance(event, TextDelta):
            if isinstance(event, ToolCallStarted):
                self.finish()
            return self.emit(event)
        shown, self.found = self._matcher.feed(event.text)
        if not shown and not event.logprobs:
            return False
        return self.emit(replace(event, text=shown))

    def finish(self) -> None:
        """Emit the text that was kept back: no stop string can follow any more."""
        if text := self._matcher.flush():
            self.emit(TextDelta(text))
