"""Text that is generated as a string in JSON, because a grammar of a schema has no other text."""

from msgspec.structs import replace

from adapters.events import Event, TextDelta, TokenLogprob
from adapters.json_text import complete_text
from adapters.ollama.translate.response import Emit


class _Quoted:
    """The text of one string, from the pieces of its JSON."""

    def __init__(self) -> None:
        self._rest = ""
        self._is_open = False
        self._has_ended = False

    def read(self, piece: str) -> str:
        """Return the text that is complete with `piece`."""
        self._rest += piece
        if not self._is_open:
            begun = self._rest.lstrip()
            if not begun:
                return ""
            self._is_open, self._rest = True, begun.removeprefix('"')
        if self._has_ended:
            return ""
        text, self._rest = complete_text(self._rest)
        self._has_ended = self._rest.startswith('"')
        return text


class QuotedTextReader:
    """Reads the text of one string from the pieces of its JSON."""

    def __init__(self) -> None:
        self.emit: Emit = bool
        """Takes the events; set before the first."""
        self._text = _Quoted()
        self._tokens = _Quoted()
        """Apart from the text: a piece of a character is a token before it is text."""

    def take(self, event: Event) -> object:
        """Emit `event`, a text and its tokens without the quotes and escapes of JSON."""
        if not isinstance(event, TextDelta):
            return self.emit(event)
        text = self._text.read(event.text)
        tokens = [_shown(token, self._tokens.read(token.token)) for token in event.logprobs or ()]
        report = tuple(token for token in tokens if token is not None)
        if not text and not report:
            return False
        return self.emit(replace(event, text=text, logprobs=report or None))


def _shown(token: TokenLogprob, text: str) -> TokenLogprob | None:
    """Return `token` as a token of the text; `None` for one that is no part of it.

    Tokens of an escape that is not complete have no text, but a part in the probability of it.
    """
    if text == token.token:
        return replace(token, top=tuple(_alternative(other) for other in token.top))
    if not text and token.token.strip(_OUTSIDE) == "":
        return None
    top = tuple(_alternative(other) for other in token.top)
    return replace(token, token=text, bytes=tuple(text.encode()), top=top)


def _alternative(token: TokenLogprob) -> TokenLogprob:
    """Return an alternative of a token without the quotes that would begin or end the string."""
    text = token.token.strip('"')
    if text in ("", token.token):
        return token
    return replace(token, token=text, bytes=tuple(text.encode()))


_OUTSIDE = '" \t\r\n'
"""Characters of tokens before and after the text of a string."""
