"""Images of a request: downloaded where allowed, and validated before a backend decodes them."""

from proxy.images.resolve import (
    Fetch,
    fetch_image,
    has_images,
    image_at,
    path_of_image,
    resolve_images,
)

__all__ = [
    "Fetch",
    "fetch_image",
    "has_images",
    "image_at",
    "path_of_image",
    "resolve_images",
]
