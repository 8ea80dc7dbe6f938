"""Programs that use the server through a library: a few lines of code for each."""

from collections.abc import Callable
from string import Template

from proxy.connect.settings import Server, Settings, User

_OPENAI = """\
from openai import OpenAI

client = OpenAI(base_url="$base_url", api_key="$key")
answer = client.chat.completions.create(
    model="$model",
    messages=[{"role": "user", "content": "Hello"}],
)
print(answer.choices[0].message.content)"""
_OPENAI_NODE = """\
import OpenAI from "openai";

const client = new OpenAI({ baseURL: "$base_url", apiKey: "$key" });
const answer = await client.chat.completions.create({
  model: "$model",
  messages: [{ role: "user", content: "Hello" }],
});
console.log(answer.choices[0].message.content);"""
_ANTHROPIC = """\
from anthropic import Anthropic

client = Anthropic(base_url="$url", api_key="$key")
message = client.messages.create(
    model="$model",
    max_tokens=$answer_tokens,
    messages=[{"role": "user", "content": "Hello"}],
)
print(message.content[0].text)"""
_OLLAMA = """\
from ollama import Client

client = Client(host="$url", headers={"Authorization": "Bearer $key"})
answer = client.chat(model="$model", messages=[{"role": "user", "content": "Hello"}])
print(answer.message.content)"""
_LANGCHAIN = """\
from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="$base_url", api_key="$key", model="$model")
print(model.invoke("Hello").content)"""
_LLAMAINDEX = """\
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    api_base="$base_url",
    api_key="$key",
    model="$model",
    context_window=$context,
    is_chat_model=True,
    is_function_calling_model=$calls,
)
print(model.complete("Hello"))"""
_AI_SDK = """\
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";

const tandem = createOpenAICompatible({ name: "tandem", baseURL: "$base_url", apiKey: "$key" });
const { text } = await generateText({ model: tandem("$model"), prompt: "Hello" });
console.log(text);"""
_CURL = """\
curl $base_url/chat/completions -H "Authorization: Bearer $key" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "$model", "messages": [{"role": "user", "content": "Hello"}]}'"""
_ENVIRONMENT = """\
export OPENAI_BASE_URL=$base_url OPENAI_API_KEY=$key"""

_RUN = "these lines"
_Program = tuple[str, str, str, str, str | None]

PROGRAMS: dict[str, _Program] = {
    "openai-python": ("OpenAI SDK, Python", "python", _OPENAI, "pip install openai", _RUN),
    "openai-node": ("OpenAI SDK, Node", "js", _OPENAI_NODE, "npm install openai", _RUN),
    "anthropic-python": (
        "Anthropic SDK, Python",
        "python",
        _ANTHROPIC,
        "pip install anthropic",
        _RUN,
    ),
    "ollama-python": ("Ollama's client, Python", "python", _OLLAMA, "pip install ollama", _RUN),
    "langchain": ("LangChain", "python", _LANGCHAIN, "pip install langchain-openai", _RUN),
    "llamaindex": (
        "LlamaIndex",
        "python",
        _LLAMAINDEX,
        "pip install llama-index-llms-openai-like",
        _RUN,
    ),
    "ai-sdk": ("Vercel AI SDK", "js", _AI_SDK, "npm install ai @ai-sdk/openai-compatible", _RUN),
    "curl": ("curl", "sh", _CURL, "", _RUN),
    "environment": (
        "Any program that reads OpenAI's variables",
        "sh",
        _ENVIRONMENT,
        "Start the program in this shell.",
        _RUN,
    ),
}
"""Name -> title, language, code, what to install, and what was run."""


def maker(text: str, language: str, step: str) -> Callable[[Server, User], Settings]:
    """A function that fills in the server."""
    template = Template(text)

    def settings(server: Server, _user: User) -> Settings:
        filled = template.substitute(
            base_url=server.base_url,
            url=server.url,
            key=server.key_or_any,
            model=server.model,
            context=server.context,
            answer_tokens=server.answer_tokens,
            calls=server.calls,
        )
        return Settings(text=filled, language=language, next_step=step)

    return settings
