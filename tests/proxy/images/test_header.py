import pytest
from fakes.pictures import gif, jpeg, photo, png, webp

from proxy.images.header import Header, read_header


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (png(3, 5), Header("image/png", 3, 5)),
        (png(65_500, 65_500), Header("image/png", 65_500, 65_500)),
        (png(3, 5, moves=True), Header("image/png", 3, 5, animated=True)),
        (jpeg(300, 500), Header("image/jpeg", 300, 500)),
        (gif(3, 5), Header("image/gif", 3, 5)),
        (gif(3, 5, frames=2), Header("image/gif", 3, 5, animated=True)),
        (webp(300, 70_000), Header("image/webp", 300, 70_000)),
        (webp(3, 5, moves=True), Header("image/webp", 3, 5, animated=True)),
        (webp(300, 5000, b"VP8L"), Header("image/webp", 300, 5000)),
        (webp(300, 5000, b"VP8 "), Header("image/webp", 300, 5000)),
    ],
)
def test_size_is_read_from_the_header(data: bytes, header: Header):
    assert read_header(data) == header


@pytest.mark.parametrize("whole", [png(3, 5), jpeg(3, 5), gif(3, 5), webp(3, 5)])
def test_truncated_header_is_none(whole: bytes):
    read = [read_header(whole[:size]) for size in range(20)]
    assert read == [None] * 20


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp"])
def test_image_without_its_end_is_none(kind: str):
    whole = photo(kind)
    assert read_header(whole) is not None
    assert [read_header(whole[:size]) for size in range(len(whole) - 1)] == [None] * (
        len(whole) - 1
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"BM" + bytes(60), b"GIF88a"],
)
def test_other_format_is_none(data: bytes):
    assert read_header(data) is None


def test_png_without_image_data_is_none():
    assert read_header(png(3, 5).replace(b"IDAT", b"tEXt")) is None


def test_gif_has_the_size_of_a_frame_that_exceeds_its_screen():
    whole = gif(300, 500)
    assert read_header(whole[:6] + b"\3\0\5\0" + whole[10:]) == Header("image/gif", 300, 500)


def test_png_with_a_second_size_is_none():
    head = slice(8, 33)
    other = png(60_000, 60_000)[head]
    assert read_header(png(3, 5)[:33] + other + png(3, 5)[33:]) is None


TOO_MANY = 100_000


@pytest.mark.parametrize(
    ("whole", "at", "part"),
    [
        (jpeg(3, 5), 2, b"\xff"),
        (jpeg(3, 5), 2, b"\xff\xe0\0\2"),
        (png(3, 5), 33, b"\0\0\0\0tEXt\0\0\0\0"),
        (gif(3, 5), 19, b"\x21\xf9\0"),
        (gif(3, 5), 21, b"\1a"),
    ],
    ids=["padding", "segments", "chunks", "extensions", "blocks"],
)
def test_image_with_too_many_parts_is_none(whole: bytes, at: int, part: bytes):
    """Scanning twenty megabytes of them would take seconds."""
    assert read_header(whole[:at] + part * 9 + whole[at:]) == read_header(whole)
    assert read_header(whole[:at] + part * TOO_MANY + whole[at:]) is None
