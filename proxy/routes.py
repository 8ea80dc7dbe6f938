"""All routes of the server."""

import functools

from litestar import Litestar
from litestar.exceptions import HTTPException

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
from proxy.endpoints.openai.audio.speech import create_speech
from proxy.endpoints.openai.audio.transcriptions import create_transcription, create_translation
from proxy.endpoints.openai.audio.voices import list_audio_models, list_audio_voices
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
from proxy.endpoints.server_request import ServerRequest, answer_error, check_role
from proxy.endpoints.tandem.activity import (
    inspect_request,
    list_logs,
    stream_activity,
    switch_inspector,
)
from proxy.endpoints.tandem.api_health import get_hybrid_health
from proxy.endpoints.tandem.config_reload import reload_config
from proxy.endpoints.tandem.connect import list_client_settings
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
    list_audio_models,
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
    list_client_settings,
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


@functools.cache
def routing() -> Litestar:
    """Return Litestar's routing to the handlers, the same for every application of the process.

    It keeps nothing of an application: handlers find the parts of theirs by their request. Its
    making takes 30 ms.
    """
    return Litestar(
        route_handlers=ROUTES,
        request_class=ServerRequest,
        guards=[check_role],
        exception_handlers={HTTPException: answer_error, Exception: answer_error},
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
