"""Vectors from `/api/embed`, with the checks that Ollama omits."""

import math
from collections.abc import Iterator

from msgspec import UNSET

from adapters.errors import BadUpstreamError, InvalidRequestError, UnsupportedParameterError
from adapters.ollama.options import to_keep_alive
from adapters.ollama.wire import EmbedBody, Embedded, EmbedOptions
from adapters.request import EmbeddingRequest

_MOST_INPUTS = 128
"""In one call: the vectors of more would be a response of many megabytes."""

Vector = tuple[float, ...]


def to_bodies(request: EmbeddingRequest) -> Iterator[EmbedBody]:
    """Yield the bodies of the calls, in the order of the inputs.

    Raises:
        InvalidRequestError: no input.
        UnsupportedParameterError: an input of token ids.
    """
    texts = tuple(_texts(request))
    if request.dimensions is not None and request.dimensions < 1:
        raise InvalidRequestError("dimensions must be at least 1.", param="dimensions")
    for at in range(0, len(texts), _MOST_INPUTS):
        yield EmbedBody(
            model=request.model,
            input=texts[at : at + _MOST_INPUTS],
            truncate=request.truncate,
            dimensions=UNSET if request.dimensions is None else request.dimensions,
            keep_alive=UNSET if request.keep_alive is None else to_keep_alive(request.keep_alive),
            options=UNSET if request.num_ctx is None else EmbedOptions(request.num_ctx),
        )


def _texts(request: EmbeddingRequest) -> Iterator[str]:
    if not request.inputs:
        raise InvalidRequestError("'input' is empty: there is nothing to embed.", param="input")
    for item in request.inputs:
        if not isinstance(item, str):
            raise UnsupportedParameterError("Ollama embeds text, not tokens.", param="tokens")
        yield item


def to_vectors(embedded: Embedded, body: EmbedBody) -> tuple[Vector, ...]:
    """Return one vector for each input of `body`, of its `dimensions`.

    Raises:
        BadUpstreamError: the number of vectors differs, or one has a component that is not finite.
        InvalidRequestError: they have fewer components than `dimensions`.
    """
    if len(embedded.embeddings) != len(body.input):
        raise BadUpstreamError(
            f"Ollama returned {len(embedded.embeddings)} vectors for {len(body.input)} inputs."
        )
    dimensions = None if body.dimensions is UNSET else body.dimensions
    return tuple(_cut(vector, dimensions) for vector in embedded.embeddings)


def _cut(vector: Vector, dimensions: int | None) -> Vector:
    if not vector or not all(map(math.isfinite, vector)):
        raise BadUpstreamError("Ollama returned a vector that is empty or not finite.")
    if dimensions is None or len(vector) == dimensions:
        return vector
    if len(vector) < dimensions:
        raise InvalidRequestError(
            f"The vectors of this model have {len(vector)} dimensions, not {dimensions}.",
            param="dimensions",
        )
    kept = vector[:dimensions]  # Old servers ignore `dimensions`.
    length = math.hypot(*kept) or 1.0
    return tuple(item / length for item in kept)
