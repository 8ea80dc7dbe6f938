"""Requests to models of another kind: text from one that only speaks or embeds, for instance."""

from adapters.backend import Capability
from adapters.errors import InvalidRequestError
from proxy.models.registry import RegisteredModel
from proxy.routing.requirements import Requirements

_ROUTES: dict[Capability, str] = {
    "speech": "Send the text to POST /v1/audio/speech.",
    "transcription": "Send audio to POST /v1/audio/transcriptions.",
    "embedding": "Send the text to POST /v1/embeddings.",
}


def refuse_other_kinds(entry: RegisteredModel, requirements: Requirements) -> None:
    """Refuse a request for text, or for vectors, to a model that has only another capability.

    Raises:
        InvalidRequestError: names the route of such models.
    """
    models = [deployment.model for deployment in entry.deployments]
    for capability, advice in _ROUTES.items():
        if capability == "embedding" and "embeddings" in requirements.features:
            continue
        only = frozenset({capability})
        if models and all(m is not None and only <= m.capabilities <= only for m in models):
            article = "an" if capability == "embedding" else "a"
            raise InvalidRequestError(
                f"'{entry.id}' is {article} {capability} model, and writes no text. {advice}",
                param="model",
            )
