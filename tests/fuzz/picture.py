"""Any bytes to the picture reader: a picture, the same one every time, or one line."""

import sys
import warnings

import atheris

with atheris.instrument_imports(include=["PIL", "nearkin.data.images", "nearkin.serve.decoding"]):
    from nearkin.data import images
    from nearkin.data.images import UnreadableImage, picture_size, read_image
    from nearkin.serve.decoding import webp_pixels

warnings.simplefilter("ignore")
images.MAX_PIXELS = 500_000  # as large as is worth the fuzzer's time


def look(data: bytes) -> None:
    picture, line = None, ""
    try:
        picture = read_image(data)
    except UnreadableImage as error:
        line = str(error)
    assert (picture is None) == (line != "")
    assert line.isprintable()
    if picture is None:
        return
    height, width, colours = picture.shape
    assert (colours, picture.dtype) == (3, "uint8")
    assert picture_size(data) == (width, height)
    assert webp_pixels(data) in (0, width * height)
    small = read_image(data, at_least=8)
    assert 2 * min(small.shape[:2]) >= min(16, height, width)


if __name__ == "__main__":
    atheris.Setup(sys.argv, look)
    atheris.Fuzz()
