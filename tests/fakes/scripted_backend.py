"""A backend that plays a list: events, errors to raise, and waits. For tests of the server."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, get_args

import httpx2
import openai
from msgspec.structs import replace

from adapters.backend import (
    Backend,
    Description,
    Embeddings,
    Health,
    Model,
    Progress,
    RunningModel,
    TokenCount,
)
from adapters.config import KINDS
from adapters.errors import BackendError
from adapters.events import Event, Finished, Started, TextDelta, Usage
from adapters.memory import MemoryUser
from adapters.naming import Naming
from adapters.request import EmbeddingRequest, Feature, GenerationRequest
from adapters.sink import Sink
from proxy.app import create_app
from proxy.config import Config

EVERYTHING: frozenset[Feature] = frozenset(get_args(Feature))
DONE = Finished("stop", Usage(prompt_tokens=3, completion_tokens=2))
HANG = "hang"
HELLO = (Started(), TextDelta("Hel"), TextDelta("lo"), DONE)
BASE = "http://127.0.0.1:8006"
ONE_MODEL = (Model(name="m"),)
WELL = Health(ok=True)
DEFAULTS = Config()

Step = Event | Exception | str


class ScriptedBackend:
    def __init__(
        self,
        script: Sequence[Step] = HELLO,
        *,
        kind: str = "scripted",
        models: Sequence[Model] | Exception = ONE_MODEL,
        honours: frozenset[Feature] = EVERYTHING,
        health: Health | str = WELL,
    ) -> None:
        self.kind = kind
        self.naming = KINDS[kind].naming if kind in KINDS else Naming()
        self.version: str | None = "1.2"
        self.memory_user: MemoryUser | None = None
        self.honours = honours
        self.script = script
        self.models: Sequence[Model] | Exception | str = models
        self.condition = health
        self.requests: list[GenerationRequest] = []
        self.embedded: list[EmbeddingRequest] = []
        self.counted = TokenCount(DONE.usage.prompt_tokens, exact=True)
        self.listed = 0
        self.unwell: set[str] = set()
        self.running = 0
        self.began = asyncio.Event()
        """Set when a generator runs."""
        self.closed = asyncio.Event()
        """Set when an answer has ended, however it did."""
        self.aclosed = False
        self.described = Description()
        self.loaded: Sequence[RunningModel] = ()
        self.deleted: list[str] = []

    def check(self, request: GenerationRequest) -> None:
        """Whatever it honours, it honours together."""

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        self.requests.append(request)
        self.running += 1
        self.began.set()
        try:
            for step in self._steps(request):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, str):
                    await asyncio.Event().wait()
                elif sink.write(step):
                    await sink.drain()
        finally:
            self.running -= 1
            self.closed.set()

    def _steps(self, request: GenerationRequest) -> Sequence[Step]:
        """The script; the default one is said for each choice that was asked for."""
        if self.script is not HELLO or not request:
            return self.script
        said = (TextDelta("Hel"), TextDelta("lo"), DONE)
        return [Started(), *(replace(e, choice=at) for at in range(request.n) for e in said)]

    async def count_tokens(self, request: GenerationRequest) -> TokenCount:
        self.requests.append(request)
        return self.counted

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """The script's first exception, if it has one; else the same vector for every input."""
        self.embedded.append(request)
        for step in self.script:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, str):
                await asyncio.Event().wait()
        return Embeddings(((0.6, -0.8),) * len(request.inputs), 3 * len(request.inputs))

    async def pull(self, model: str) -> AsyncGenerator[Progress]:
        yield Progress(status="success")

    async def describe(self, model: str, *, verbose: bool = False) -> Description:
        return self.described

    async def list_running(self) -> list[RunningModel]:
        return list(self.loaded)

    async def delete(self, model: str) -> None:
        self.deleted.append(model)

    async def list_models(self) -> list[Model]:
        self.listed += 1
        if isinstance(self.models, str):
            await asyncio.Event().wait()
        if isinstance(self.models, Exception):
            raise self.models
        return [model for model in self.models if isinstance(model, Model)]

    async def load(self, model: str, keep_alive: float | None = None) -> None:
        return None

    def is_well(self, model: str) -> bool:
        return model not in self.unwell

    def loading(self) -> dict[str, Progress]:
        return {}

    async def unload(self, model: str) -> None:
        return None

    async def health(self) -> Health:
        if isinstance(self.condition, str):
            await asyncio.Event().wait()
        assert isinstance(self.condition, Health)
        return self.condition

    async def aclose(self) -> None:
        self.aclosed = True


class ScriptedBuilder(ScriptedBackend):
    """Keeps what it is told to copy, create and upload."""

    def __init__(self, *, kind: str, models: Sequence[Model] = ONE_MODEL) -> None:
        super().__init__(kind=kind, models=models)
        self.copies: list[tuple[str, str]] = []
        self.recipes: list[bytes] = []
        self.files: dict[str, bytes] = {}

    async def copy(self, source: str, destination: str) -> None:
        self.copies.append((source, destination))

    async def create(self, recipe: bytes) -> AsyncGenerator[Progress]:
        self.recipes.append(recipe)
        yield Progress(status="success")

    async def has_file(self, digest: str) -> bool:
        return digest in self.files

    async def upload(self, digest: str, pieces: AsyncIterable[bytes]) -> bool:
        is_new = digest not in self.files
        self.files[digest] = b"".join([piece async for piece in pieces])
        return is_new


class EndlessBackend(ScriptedBackend):
    """Deltas without end, as fast as the reader takes them."""

    written = 0

    async def generate(self, request: GenerationRequest, sink: Sink) -> None:
        self.running += 1
        try:
            sink.write(Started())
            while True:
                self.written += 1
                if sink.write(TextDelta("word ")):
                    await sink.drain()
        finally:
            self.running -= 1
            self.closed.set()


@asynccontextmanager
async def http_client(
    *backends: Backend, config: Config = DEFAULTS, **parts: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain client of an application with these backends, each named after its kind.

    `parts` are further arguments of `create_app`.
    """
    async with named_client({each.kind: each for each in backends}, config, **parts) as client:
        yield client


@asynccontextmanager
async def named_client(
    backends: Mapping[str, Backend] | None, config: Config = DEFAULTS, **parts: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain client of an application in this process, with `backends` or those of `config`."""
    app = create_app(config, backends, **parts)
    transport = httpx2.ASGITransport(app=app)  # type: ignore[arg-type]  # Litestar's own words for ASGI
    async with app.lifespan(), httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
        yield client


@asynccontextmanager
async def openai_client(
    *backends: Backend, config: Config = DEFAULTS, **parts: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client of the same."""
    async with http_client(*backends, config=config, **parts) as client:
        yield openai.AsyncOpenAI(
            base_url=f"{BASE}/v1", api_key="x", max_retries=0, http_client=client
        )


def chat(**fields: object) -> dict[str, object]:
    """A body that is fine, and `fields`."""
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}


def every_error() -> list[type[BackendError]]:
    """The leaves and branches of the tree below `BackendError`."""
    found: list[type[BackendError]] = []
    waiting = BackendError.__subclasses__()
    while waiting:
        kind = waiting.pop(0)
        found.append(kind)
        waiting.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == "adapters.errors"]
