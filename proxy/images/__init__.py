"""Images of a request: fetched where that is allowed, and measured before anybody decodes them."""

from proxy.images.settle import has_images, image_at, path_of_image, settle_images

__all__ = ["has_images", "image_at", "path_of_image", "settle_images"]
