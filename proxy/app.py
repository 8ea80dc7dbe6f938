"""The server on one screen."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext

from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from msgspec.structs import asdict
from prometheus_client import CollectorRegistry

from adapters.backend import Backend
from proxy.access.keys import Access
from proxy.assembly import Parts, assemble, opened
from proxy.bench.archive import Archive
from proxy.config import Config, ServerConfig, state_folder
from proxy.encryption import Encryption
from proxy.endpoints.anthropic.errors import ERRORS as ANTHROPIC_ERRORS
from proxy.endpoints.anthropic.errors import HEADER as ANTHROPIC_HEADER
from proxy.endpoints.anthropic.messages.dialect import count_message_tokens, create_message
from proxy.endpoints.api_chat import create_chat
from proxy.endpoints.model_list import list_models, retrieve_model
from proxy.endpoints.ollama.administration import (
    check_blob,
    copy_model,
    create_model,
    delete_model,
    pull_model,
    upload_blob,
)
from proxy.endpoints.ollama.embed import create_embed, create_old_embedding
from proxy.endpoints.ollama.generate.dialect import create_generation
from proxy.endpoints.ollama.models import get_version, list_running, list_tags, show_model
from proxy.endpoints.openai.absent import explain_absence
from proxy.endpoints.openai.audio.speech import create_speech
from proxy.endpoints.openai.audio.transcriptions import create_transcription, create_translation
from proxy.endpoints.openai.audio.voices import list_audio_voices
from proxy.endpoints.openai.chat_completions.dialect import create_chat_completion
from proxy.endpoints.openai.chat_completions.stored import (
    delete_chat_completion,
    list_chat_completion_messages,
    list_chat_completions,
    retrieve_chat_completion,
    update_chat_completion,
)
from proxy.endpoints.openai.completions.dialect import create_completion
from proxy.endpoints.openai.conversations import (
    create_conversation,
    create_items,
    delete_conversation,
    delete_item,
    list_items,
    retrieve_conversation,
    retrieve_item,
    update_conversation,
)
from proxy.endpoints.openai.embeddings import create_embedding
from proxy.endpoints.openai.responses.background import cancel_response
from proxy.endpoints.openai.responses.compact import compact_response
from proxy.endpoints.openai.responses.dialect import create_response
from proxy.endpoints.openai.responses.input_tokens import count_input_tokens
from proxy.endpoints.openai.responses.stored import (
    delete_response,
    list_input_items,
    retrieve_response,
)
from proxy.endpoints.openai.responses.websocket import converse
from proxy.endpoints.server_request import (
    ServerParts,
    ServerRequest,
    answer_error,
    check_role,
)
from proxy.endpoints.tandem.activity import (
    inspect_request,
    list_logs,
    stream_activity,
    switch_inspector,
)
from proxy.endpoints.tandem.api_health import get_hybrid_health
from proxy.endpoints.tandem.config_reload import reload_config
from proxy.endpoints.tandem.health import get_health, get_liveness
from proxy.endpoints.tandem.index import get_index, get_page_file
from proxy.endpoints.tandem.load import load_mlx_model, load_or_unload_model, unload_mlx_model
from proxy.endpoints.tandem.metrics import get_metrics
from proxy.endpoints.tandem.models_by_backend import (
    list_mlx_models,
    list_models_by_backend,
    retrieve_hybrid_model,
)
from proxy.endpoints.tandem.openapi import get_litestar_openapi, get_openapi
from proxy.endpoints.tandem.performance import get_comparison
from proxy.endpoints.tandem.pin import pin_model
from proxy.endpoints.tandem.prompt import create_mlx_generation
from proxy.endpoints.tandem.route import plan_route
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
from proxy.request_log import RequestLog
from proxy.spans import open_traces
from proxy.stored.running import RunningAnswers
from proxy.stored.store import Store

ROUTES = (
    create_chat_completion,
    list_chat_completions,
    retrieve_chat_completion,
    update_chat_completion,
    delete_chat_completion,
    list_chat_completion_messages,
    create_completion,
    create_response,
    converse,
    count_input_tokens,
    compact_response,
    retrieve_response,
    delete_response,
    cancel_response,
    list_input_items,
    create_conversation,
    retrieve_conversation,
    update_conversation,
    delete_conversation,
    create_items,
    list_items,
    retrieve_item,
    delete_item,
    create_embedding,
    create_speech,
    list_audio_voices,
    create_transcription,
    create_translation,
    create_message,
    count_message_tokens,
    plan_route,
    list_models,
    retrieve_model,
    get_index,
    get_page_file,
    stream_activity,
    inspect_request,
    switch_inspector,
    list_logs,
    get_health,
    get_liveness,
    get_metrics,
    get_comparison,
    list_models_by_backend,
    retrieve_hybrid_model,
    load_or_unload_model,
    list_mlx_models,
    pin_model,
    create_chat,
    create_generation,
    create_embed,
    create_old_embedding,
    get_version,
    list_tags,
    show_model,
    list_running,
    pull_model,
    delete_model,
    copy_model,
    create_model,
    check_blob,
    upload_blob,
    create_mlx_generation,
    load_mlx_model,
    unload_mlx_model,
    reload_config,
    get_hybrid_health,
    get_openapi,
    get_litestar_openapi,
)


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
        dispatch.access = Access(server.keys, os.environ)
        dispatch.config = server

    assembled = assemble(config)
    live = LiveConfig(config, assembled, read_config, apply)
    parts = _to_parts(config, assembled, live, fetch_image)
    metrics = AnswerMetrics(parts.metrics, parts.registry.listed)
    traces = open_traces(parts.registry.listed, os.environ)
    form = config.server.log_format
    request_log = RequestLog(form, log) if form is not None and log is not None else None

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncGenerator[None]:
        try:
            async with _running(parts, config, backends):
                yield
        finally:
            if request_log is not None:
                request_log.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = Litestar(
        route_handlers=ROUTES,
        request_class=ServerRequest,
        guards=[check_role],
        exception_handlers={HTTPException: answer_error, Exception: answer_error},
        lifespan=[lifespan],
        state=State({"parts": parts}),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    readers = [parts.activity.read, metrics.read]
    readers += [each.read for each in (request_log, traces) if each is not None]
    dispatch = Dispatch(
        app,
        config.server,
        access,
        ServerRequest,
        readers,
        {ANTHROPIC_HEADER: ANTHROPIC_ERRORS},
        parts.activity.records,
        explain_absence=explain_absence,
        is_traced=traces is not None,
    )
    app.asgi_handler = dispatch
    return app


def _to_parts(
    config: Config, assembled: Parts, live: LiveConfig, fetch_image: Fetch
) -> ServerParts:
    state, limits = state_folder(config, os.environ), config.server.store_limits
    return ServerParts(
        **asdict(assembled),
        live=live,
        archive=Archive(state),
        grace=ShutdownGrace(config.server.shutdown_grace),
        document=Document(),
        encryption=Encryption(state),
        running=RunningAnswers(),
        store=None if limits is None else Store(state / "stored", limits),
        fetch_image=fetch_image,
        activity=Live(),
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
        parts.store.opened() if parts.store is not None else nullcontext(),
    ):
        yield
        parts.grace.begin()
        await parts.running.ended()
