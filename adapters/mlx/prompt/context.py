"""Context length: the limit of a request, and rejection of prompts that exceed it."""

from adapters.errors import ContextLengthError, InvalidRequestError
from adapters.request import GenerationRequest


def context_of(request: GenerationRequest, context_length: int | None) -> int | None:
    """Tokens for prompt and answer together: `num_ctx`, at most the model's `context_length`.

    Raises:
        InvalidRequestError: `num_ctx` is less than 1.
    """
    if request.num_ctx is None:
        return context_length
    if request.num_ctx < 1:
        raise InvalidRequestError("'num_ctx' must be at least 1.", param="num_ctx")
    return min(request.num_ctx, context_length or request.num_ctx)


def require_room(prompt_tokens: int, context: int | None, request: GenerationRequest) -> None:
    """Reject prompts that leave no token for the answer; one with `max_tokens` 0 needs none.

    Raises:
        InvalidRequestError: the prompt is empty.
        ContextLengthError: it is longer than `context` allows.
    """
    param = "messages" if isinstance(request.prompt, tuple) else "prompt"
    if prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty.", param=param)
    minimum = 0 if request.max_tokens == 0 else 1
    if context is not None and prompt_tokens + minimum > context:
        error = ContextLengthError(
            f"The context of '{request.model}' holds {context} tokens; "
            f"the prompt alone has {prompt_tokens}.",
            param=param,
        )
        error.prompt_tokens, error.limit = prompt_tokens, context
        raise error
