"""Vectors from `/api/embed`: what Ollama passes over in silence is checked here."""

import math
from collections.abc import Iterator

from msgspec import UNSET

from adapters.errors import BadUpstreamError, InvalidRequestError, UnsupportedParameterError
from adapters.ollama.options import to_keep_alive
from adapters.ollama.wire import EmbedBody, Embedded
from adapters.request import EmbeddingRequest

_MOST_INPUTS = 128
"""In one call: the vectors of more would make an answer of many megabytes."""

Vector = tuple[float, ...]


def to_bodies(request: EmbeddingRequest) -> Iterator[EmbedBody]:
    """The bodies of as many calls as it takes, in the order of the inputs.

    Raises:
        InvalidRequestError: no input, or an empty one; Ollama would leave it out and say nothing.
        UnsupportedParameterError: an input of token ids.
    """
    texts = tuple(_texts(request))
    if request.dimensions is not None and request.dimensions < 1:
        raise InvalidRequestError("dimensions must be at least 1.", param="dimensions")
    for at in range(0, len(texts), _MOST_INPUTS):
        yield EmbedBody(
            model=request.model,
            input=texts[at : at + _MOST_INPUTS],
            dimensions=UNSET if request.dimensions is None else request.dimensions,
            keep_alive=UNSET if request.keep_alive is None else to_keep_alive(request.keep_alive),
        )


def _texts(request: EmbeddingRequest) -> Iterator[str]:
    if not request.inputs:
        raise InvalidRequestError("There is nothing to embed.", param="input")
    for each in request.inputs:
        if not isinstance(each, str):
            raise UnsupportedParameterError("Ollama embeds text, no tokens.", param="tokens")
        if not each:
            raise InvalidRequestError("An empty text cannot be embedded.", param="input")
        yield each


def to_vectors(embedded: Embedded, body: EmbedBody) -> tuple[Vector, ...]:
    """One vector for each input of `body`, of its `dimensions`.

    Raises:
        BadUpstreamError: there are more or fewer of them, or one holds no finite numbers.
        InvalidRequestError: they have fewer components than `dimensions`.
    """
    if len(embedded.embeddings) != len(body.input):
        raise BadUpstreamError("Ollama gave another number of vectors than was asked for.")
    dimensions = None if body.dimensions is UNSET else body.dimensions
    return tuple(_cut(vector, dimensions) for vector in embedded.embeddings)


def _cut(vector: Vector, dimensions: int | None) -> Vector:
    if not vector or not all(map(math.isfinite, vector)):
        raise BadUpstreamError("Ollama gave a vector that is none.")
    if dimensions is None or len(vector) == dimensions:
        return vector
    if len(vector) < dimensions:
        raise InvalidRequestError(
            f"The model's vectors have {len(vector)} components.", param="dimensions"
        )
    kept = vector[:dimensions]  # By a server that does not know the field yet.
    length = math.hypot(*kept) or 1.0
    return tuple(each / length for each in kept)
