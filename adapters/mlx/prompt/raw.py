"""Raw prompts: text or token ids, fill-in-the-middle, `echo`."""

# pyright: basic
from typing import Any

from adapters.continuation import require_continuable
from adapters.errors import InvalidRequestError, UnsupportedParameterError
from adapters.mlx.models.fim import find_infill
from adapters.request import GenerationRequest, TokenIds


def reject_conflicts(request: GenerationRequest) -> None:
    """Reject parameters that do not fit the kind of prompt.

    Raises:
        InvalidRequestError: a chat with a parameter of raw prompts, or the reverse.
        UnsupportedParameterError: prompt log probabilities together with a suffix.
    """
    if request.continue_final_message:
        require_continuable(request)
    if isinstance(request.prompt, tuple):
        kind = "raw prompts"
        params = {"suffix": request.suffix is not None, "echo": request.echo}
    else:
        kind = "chats"
        params = {
            "tools": bool(request.tools),
            "reasoning_effort": request.reasoning_effort not in (None, "none"),
        }
    for param, is_set in params.items():
        if is_set:
            raise InvalidRequestError(f"'{param}' is supported for {kind} only.", param=param)
    if request.suffix is not None and request.echo and request.top_logprobs is not None:
        raise UnsupportedParameterError(
            "'suffix' is not supported together with 'echo' and 'logprobs'.",
            param="suffix",
        )


def raw_ids(tokenizer: Any, request: GenerationRequest) -> list[int]:
    """Tokenize a raw prompt and its suffix. An empty prompt becomes the model's first token.

    Raises:
        InvalidRequestError: an id is not in the vocabulary, or the prompt is empty and the model
            has no first token.
        UnsupportedParameterError: the model does not support `suffix`.
    """
    if request.suffix is not None:
        return _infill_ids(tokenizer, request.prompt, request.suffix)
    if isinstance(request.prompt, TokenIds):
        ids = _valid_ids(tokenizer, request.prompt)
    else:
        ids = _to_be_continued(tokenizer, request.prompt)
    first = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    ids = ids or [token for token in first if token is not None][:1]
    if not ids:
        raise InvalidRequestError("The prompt is empty.", param="prompt")
    return ids


def _to_be_continued(tokenizer: Any, text: Any) -> list[int]:
    """Tokenize `text` without the end that some tokenizers append (Command R's, T5's)."""
    ids, example = list(tokenizer.encode(text)), text[:_EXAMPLE]
    whole, own = list(tokenizer.encode(example)), _plain(tokenizer, example)
    before = next((at for at in range(len(whole)) if whole[at : at + len(own)] == own), None)
    if not own or before is None:
        return ids
    return ids[: len(ids) - (len(whole) - before - len(own))]


_EXAMPLE = 16
"""Characters of a text that show what its tokenizer appends."""


def raw_text(tokenizer: Any, prompt: Any) -> str:
    """The prompt as `echo` returns it; control tokens are written by their names."""
    return tokenizer.decode(list(prompt.ids)) if isinstance(prompt, TokenIds) else prompt


def _infill_ids(tokenizer: Any, prompt: Any, suffix: str) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    if (infill := find_infill(vocabulary)) is None:
        raise UnsupportedParameterError("This model does not support 'suffix'.", param="suffix")
    is_ids = isinstance(prompt, TokenIds)
    prefix = _valid_ids(tokenizer, prompt) if is_ids else _plain(tokenizer, prompt)
    ids = infill.join(prefix, _plain(tokenizer, suffix), vocabulary)
    # The token that this tokenizer prepends to texts, if any.
    first = tokenizer.encode("a")[:1]
    return [*first, *ids] if first == [tokenizer.bos_token_id] else ids


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _valid_ids(tokenizer: Any, prompt: TokenIds) -> list[int]:
    size = len(tokenizer)
    if unknown := [token for token in prompt.ids if not 0 <= token < size]:
        raise InvalidRequestError(
            f"{unknown[0]} is not a token of this model; its vocabulary has {size}.",
            param="tokens",
        )
    return list(prompt.ids)
