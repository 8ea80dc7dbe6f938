"""The server on one screen."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext

from litestar import Litestar
from litestar.datastructures import State
from msgspec.structs import asdict
from prometheus_client import CollectorRegistry

from adapters.backend import Backend
from proxy.access.keys import Access, require_keys
from proxy.assembly import Parts, assemble, opened
from proxy.audio.decoded import DecodedAudio
from proxy.bench.archive import Archive
from proxy.config import Config, ServerConfig, state_folder
from proxy.encryption import Encryption
from proxy.endpoints.absent import explain_absence
from proxy.endpoints.anthropic.errors import ERRORS as ANTHROPIC_ERRORS
from proxy.endpoints.anthropic.errors import HEADER as ANTHROPIC_HEADER
from proxy.endpoints.ollama.answer import OLLAMA_ERRORS
from proxy.endpoints.server_request import ServerParts, ServerRequest
from proxy.health import HealthReports
from proxy.http.dispatch import Dispatch
from proxy.http.event_stream import ShutdownGrace
from proxy.images import Fetch, fetch_image
from proxy.inspector import Inspector
from proxy.live import Live
from proxy.log_buffer import LogBuffer
from proxy.log_file import LogStream
from proxy.metrics.answers import AnswerMetrics
from proxy.openapi import Document
from proxy.reload import LiveConfig
from proxy.request_log import LogFormat, RequestLog
from proxy.routes import routing
from proxy.spans import open_traces
from proxy.stored.running import RunningAnswers
from proxy.stored.store import Store


def create_app(
    config: Config,
    backends: Mapping[str, Backend] | None = None,
    log: LogStream | None = None,
    fetch_image: Fetch = fetch_image,
    read_config: Callable[[], Config] | None = None,
) -> Litestar:
    """Create the application. `backends` replace those of the config and are not closed.

    The request log is written to `log`. `fetch_image` downloads the images of requests.
    `read_config` reads the configuration again for a reload; `None`: it cannot be reloaded.

    Raises:
        ConfigError: a key of `server.keys` cannot be read.
    """
    access = Access(config.server.keys, os.environ)

    def apply(server: ServerConfig) -> None:
        require_keys(server, had_keys=dispatch.access.needs_key)
        access = Access(server.keys, os.environ)
        access.resume(dispatch.access)
        dispatch.access = access
        dispatch.config = server

    assembled = assemble(config)
    live = LiveConfig(config, assembled, read_config, apply)
    parts = _to_parts(config, assembled, live, fetch_image)
    readers = _Readers(parts, config.server.log_format, log)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncGenerator[None]:
        async with aclosing(readers), _running(parts, config, backends):
            yield

    app = Litestar(
        lifespan=[lifespan],
        state=State({"parts": parts}),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    dispatch = Dispatch(
        routing(),
        config.server,
        access,
        ServerRequest,
        readers.all,
        {ANTHROPIC_HEADER: ANTHROPIC_ERRORS},
        {"/api/": OLLAMA_ERRORS},
        parts.activity.records,
        explain_absence=explain_absence,
        is_traced=readers.traces is not None,
    )
    app.asgi_handler = dispatch
    return app


class _Readers:
    """The readers of every answer's record: the page, the metrics, the request log, the traces."""

    def __init__(self, parts: ServerParts, form: LogFormat | None, log: LogStream | None) -> None:
        """The request log is written to `log` in `form`; without either there is none."""
        listed = parts.registry.listed
        self.traces = open_traces(listed, os.environ)
        self._log = (
            None if form is None or log is None else RequestLog(form, log, parts.logs.add_request)
        )
        optional = [each.read for each in (self._log, self.traces) if each is not None]
        self.all = [parts.activity.read, AnswerMetrics(parts.metrics, listed).read, *optional]

    async def aclose(self) -> None:
        if self._log is not None:
            self._log.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)


def _to_parts(
    config: Config, assembled: Parts, live: LiveConfig, fetch_image: Fetch
) -> ServerParts:
    state, limits = state_folder(config, os.environ), config.server.store_limits
    return ServerParts(
        **asdict(assembled),
        live=live,
        archive=Archive(state),
        audio=DecodedAudio(),
        grace=ShutdownGrace(config.server.shutdown_grace),
        document=Document(routing()),
        encryption=Encryption(state),
        running=RunningAnswers(),
        store=None if limits is None else Store(state / "stored", limits),
        fetch_image=fetch_image,
        activity=Live(),
        health=HealthReports(assembled.registry, assembled.memory),
        inspector=Inspector(),
        logs=LogBuffer(),
        metrics=CollectorRegistry(),
    )


@asynccontextmanager
async def _running(
    parts: ServerParts, config: Config, backends: Mapping[str, Backend] | None
) -> AsyncGenerator[None]:
    """Open the parts; at the end, answers in the background get the time of the shutdown grace."""
    async with (
        parts.logs.attached(),
        opened(parts, config, backends),
        aclosing(parts.health),
        parts.store.opened() if parts.store is not None else nullcontext(),
    ):
        yield
        parts.grace.begin()
        await parts.running.ended()
