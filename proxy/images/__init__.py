"""Images of a request: fetched where that is allowed, and measured before anybody decodes them."""

from proxy.images.settle import settle_images

__all__ = ["settle_images"]
