"""Summaries of conversations by their own model.

A summary is encrypted for the client, as OpenAI does, and is a message of the user where the client
sends it back.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from adapters.errors import UnsupportedParameterError
from adapters.request import GenerationRequest, Message, TextPart
from proxy.endpoints.generate import Call, Dialect, count, generate
from proxy.endpoints.openai.responses.items import CompactionItem, InputItem, MessageItem
from proxy.endpoints.openai.responses.translate import to_param
from proxy.endpoints.openai.responses.turn import Turn
from proxy.endpoints.server_request import ServerRequest
from proxy.record import new_id
from proxy.sinks import Collector

_INSTRUCTION = (
    "Summarise the conversation so far, so that another assistant can continue it without reading "
    "it: what the user wants, decisions, facts, names, results of tools, and what is left to do. "
    "Write the summary only."
)
_PREFACE = "Summary of the conversation so far:\n"
_SHARE = 4
"""A summary has at most one of so many tokens of what it replaces."""
_LEAST_TOKENS = 16


def split_turns(items: Sequence[InputItem]) -> tuple[Sequence[InputItem], Sequence[InputItem]]:
    """Return the items to summarise and those of the last turn; a single turn is summarised."""
    starts = [
        at for at, item in enumerate(items) if isinstance(item, MessageItem) and item.role == "user"
    ]
    last = starts[-1] if len(starts) > 1 else len(items)
    return items[:last], items[last:]


async def to_summary(
    request: ServerRequest, dialect: Dialect[Turn], call: Call[Turn]
) -> Call[Turn]:
    """Turn `call` into a request for the summary of its messages.

    Raises:
        BackendError: as an answer, or its tokens cannot be counted.
    """
    if call.respond is not None:
        raise UnsupportedParameterError(
            "'background' is not supported for a compaction.", param="background"
        )
    counted = await count(request, call, to_param)
    limit = max(_LEAST_TOKENS, counted.tokens // _SHARE)
    return replace(call, requests=(_asking(call, limit),), dialect=dialect)


async def summarise(
    request: ServerRequest, dialect: Dialect[Turn], call: Call[Turn]
) -> CompactionItem:
    """Return the summary of the messages of `call`; errors as in `to_summary`."""
    asking = replace(await to_summary(request, dialect, call), stream=False)
    collector = Collector()
    await request.finish(generate(request, dialect, asking, collector))
    (answer,) = collector.answers()
    return compaction_item(call.body, answer.text)


def compaction_item(turn: Turn, summary: str) -> CompactionItem:
    text = _PREFACE + summary.strip()
    return CompactionItem(id=new_id("cmp_"), encrypted_content=turn.encryption.seal_summary(text))


def _asking(call: Call[Turn], limit: int) -> GenerationRequest:
    """Ask for a summary of the messages of a request, without tools and formats."""
    prompt = call.requests[0].prompt
    messages = prompt if isinstance(prompt, tuple) else ()
    instruction = Message(role="user", content=(TextPart(_INSTRUCTION),))
    return GenerationRequest(
        model=call.requests[0].model,
        prompt=(*messages, instruction),
        max_tokens=limit,
        sampling=call.requests[0].sampling,
    )
