"""Continuation of the last message, checked the same way by every engine."""

from adapters.errors import InvalidRequestError
from adapters.request import GenerationRequest


def require_continuable(request: GenerationRequest) -> None:
    """Refuse a `continue_final_message` that has nothing to continue.

    Raises:
        InvalidRequestError: there is no text of the assistant's to continue, or the answer is to
            have a form that includes text before it.
    """
    last = request.prompt[-1] if isinstance(request.prompt, tuple) and request.prompt else None
    if last is None or last.role != "assistant" or last.tool_calls or not last.text:
        raise InvalidRequestError(
            "'continue_final_message' requires a last message of the assistant with text and "
            "without tool calls.",
            param="continue_final_message",
        )
    forced = bool(request.tools) and request.tool_choice not in ("auto", "none")
    if forced or request.response_format is not None:
        other = "tool_choice" if forced else "response_format"
        raise InvalidRequestError(
            f"'{other}' is not supported for an answer that continues the assistant's last "
            "message.",
            param="continue_final_message",
        )
