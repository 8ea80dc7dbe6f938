"""LangChain's own standard tests of chat models and of embeddings."""

import os
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

URL = f"{os.environ['TANDEM_URL']}/v1"
CAPABLE = bool(os.environ["TANDEM_CAPABLE"])


class TestChat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": os.environ["TANDEM_MODEL"],
            "base_url": URL,
            "api_key": "x",
            "max_retries": 0,
            "max_tokens": 200,
            "temperature": 0,
            "stream_usage": True,
        }

    @property
    def has_tool_calling(self) -> bool:
        """These tests compare the arguments that the model chooses."""
        return CAPABLE

    @property
    def has_structured_output(self) -> bool:
        return CAPABLE

    @property
    def supports_json_mode(self) -> bool:
        return CAPABLE


@pytest.mark.skipif(
    not os.environ["TANDEM_EMBEDDING_MODEL"], reason="the server has no model that embeds"
)
class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {
            "model": os.environ["TANDEM_EMBEDDING_MODEL"],
            "base_url": URL,
            "api_key": "x",
            "check_embedding_ctx_length": False,
        }
