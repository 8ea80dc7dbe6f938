"""Check a text against a regular expression or a Lark grammar, without a model."""

from functools import lru_cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from adapters.errors import InvalidRequestError
from adapters.request import Lark, Regex

_MAX_BYTES = 64 * 1024


@lru_cache(maxsize=1)
def _bytes_as_tokens() -> LLTokenizer:
    return LLTokenizer("byte")


class TextFormat:
    """A compiled format."""

    def __init__(self, form: Regex | Lark, param: str) -> None:
        """Raises InvalidRequestError: it is no valid format; `param` names it."""
        is_regex = isinstance(form, Regex)
        source = form.pattern if is_regex else form.grammar
        if len(source.encode()) > _MAX_BYTES:
            raise InvalidRequestError(
                f"The format is larger than {_MAX_BYTES // 1024} KB.", param=param
            )
        if is_regex:
            inner = source.removeprefix("^").removesuffix("$")
            source = f"start: /{regex_to_lark(inner, 'd')}/"
        limits = LLParserLimits(verbose_errors=False)
        self._matcher = LLMatcher(_bytes_as_tokens(), source, log_level=0, limits=limits)
        if self._matcher.is_error():
            raise InvalidRequestError("The format is not a valid grammar.", param=param)

    def matches(self, text: str) -> bool:
        """True if all of `text` matches."""
        matcher = self._matcher.deep_copy()
        data = list(text.encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()
