"""Prompts without a chat: text or token ids to continue, gaps to fill, prompts to repeat."""

# pyright: basic
from typing import Any

from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.models.fim import find_infill
from adapters.request import GenerationRequest, TokenIds


def refuse_senseless(request: GenerationRequest) -> None:
    """
    Raises:
        InvalidRequestError: a chat with what only a raw prompt can have, or the reverse.
        UnsupportedParameterError: the probabilities of a prompt with a gap in it.
    """
    if isinstance(request.prompt, tuple):
        for param, asked in {"suffix": request.suffix is not None, "echo": request.echo}.items():
            if asked:
                raise InvalidRequestError(f"'{param}' goes with a raw prompt only.", param=param)
    else:
        for param, asked in {
            "tools": bool(request.tools),
            "reasoning_effort": request.reasoning_effort not in (None, "none"),
        }.items():
            if asked:
                raise InvalidRequestError(f"'{param}' goes with a chat only.", param=param)
    if request.suffix is not None and request.echo and request.top_logprobs is not None:
        raise UnsupportedParameterError(
            "'echo' with 'logprobs' reports a prompt as it was sent, without a 'suffix'.",
            param="suffix",
        )


def raw_ids(tokenizer: Any, request: GenerationRequest) -> list[int]:
    """The ids of a raw prompt, its suffix included. An empty one begins with the model's own token.

    Raises:
        InvalidRequestError: an id is no token of this model, or there is nothing to begin with.
        UnsupportedParameterError: a suffix for a model that fills no gaps.
    """
    if request.suffix is not None:
        return _filled(tokenizer, request.prompt, request.suffix)
    if isinstance(request.prompt, TokenIds):
        ids = _checked(tokenizer, request.prompt)
    else:
        ids = list(tokenizer.encode(request.prompt))
    return ids or _beginning(tokenizer)


def raw_text(tokenizer: Any, prompt: Any) -> str:
    """The prompt as `echo` shows it; ids that are no text show as their tokens' names."""
    return tokenizer.decode(list(prompt.ids)) if isinstance(prompt, TokenIds) else prompt


def _filled(tokenizer: Any, prompt: Any, suffix: str) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    if (way := find_infill(vocabulary)) is None:
        raise UnsupportedParameterError("This model fills no gaps.", param="suffix")
    ids = isinstance(prompt, TokenIds)
    prefix = _checked(tokenizer, prompt) if ids else _plain(tokenizer, prompt)
    joined = way.join(prefix, _plain(tokenizer, suffix), vocabulary)
    first = _first_token(tokenizer)
    return joined if first is None else [first, *joined]


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _first_token(tokenizer: Any) -> int | None:
    """The token that this tokenizer itself puts before a text, if it does."""
    ids = tokenizer.encode("a")
    return ids[0] if ids and ids[0] == tokenizer.bos_token_id else None


def _checked(tokenizer: Any, prompt: TokenIds) -> list[int]:
    size = len(tokenizer)
    if unknown := [each for each in prompt.ids if not 0 <= each < size]:
        raise InvalidRequestError(
            f"{unknown[0]} is no token of this model, which has {size}.", param="tokens"
        )
    return list(prompt.ids)


def _beginning(tokenizer: Any) -> list[int]:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token]
    raise InvalidRequestError("The prompt is empty.", param="prompt")
