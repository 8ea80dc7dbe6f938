"""How many tokens a request may have."""

from adapters.errors import InvalidRequestError
from adapters.request import GenerationRequest


def context_of(request: GenerationRequest, context_length: int | None) -> int | None:
    """Tokens that prompt and answer may have together: what is asked, within what the model has.

    Raises:
        InvalidRequestError: `num_ctx` is no number of tokens.
    """
    if request.num_ctx is None:
        return context_length
    if request.num_ctx < 1:
        raise InvalidRequestError("'num_ctx' must be at least 1.", param="num_ctx")
    return min(request.num_ctx, context_length or request.num_ctx)
