"""Which image of a request an error is about."""

from collections.abc import Mapping


def image_at(message: int, part: int) -> str:
    """In the words of the contract."""
    return f"prompt[{message}].content[{part}]"


def path_of_image(param: str, paths: Mapping[str, str]) -> str | None:
    """The client's name for the image that `param` blames; `None` where it blames none.

    `paths` leads there from `image_at` of each image of the request. An engine that takes no
    images, or not this one, does not say which: it can be told only where there is no other.
    """
    if param == "images" and len(paths) == 1:
        return next(iter(paths.values()))
    return paths.get(param)
