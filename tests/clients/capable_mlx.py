"""`tandem` with MLX models that answer by `capable_model`: everything but the logits is real.

In place of the grammar, a processor lets through the tokens of the answer that the rules give.
"""

import json
import sys
from typing import Any

from clients.capable_model import Question, reply
from fakes.scripted_model import Script
from recorder import serve

from adapters.mlx.prompt import prepare
from adapters.request import GenerationRequest, JSONSchema, NamedTool

MODEL = "capable"


async def _constrain(request: GenerationRequest, loaded: Any, _prompt: Any) -> Any:
    answer = reply(to_question(request))
    calls = [{"name": call.name, "arguments": call.arguments} for call in answer.calls]
    if not request.parallel_tool_calls:
        calls = calls[:1]
    text = answer.text + "".join(
        f"<tool_call>\n{json.dumps(c, ensure_ascii=False)}\n</tool_call>" for c in calls
    )
    tokens = loaded.tokenizer.encode(text, add_special_tokens=False)
    return [(Script(tokens),) for _ in range(request.n)], ()


def to_question(request: GenerationRequest) -> Question:
    messages = request.prompt if isinstance(request.prompt, tuple) else ()
    last = max((at for at, m in enumerate(messages) if m.role == "user"), default=-1)
    named = request.tool_choice.name if isinstance(request.tool_choice, NamedTool) else None
    tools = [tool for tool in request.tools if named in (None, tool.name)]
    shape = request.response_format
    return Question(
        messages[last].text if last >= 0 else str(request.prompt),
        tuple(m.text for m in messages[last + 1 :] if m.role == "tool"),
        () if request.tool_choice == "none" else tuple((t.name, t.parameters or {}) for t in tools),
        must_call=request.tool_choice not in ("auto", "none"),
        schema=None if shape is None else shape.schema if isinstance(shape, JSONSchema) else {},
        conversation="\n".join(message.text for message in messages),
    )


if __name__ == "__main__":
    prepare.constrain = _constrain  # type: ignore[assignment]
    sys.exit(serve.run())
