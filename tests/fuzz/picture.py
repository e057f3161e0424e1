"""Any bytes to the picture reader and to the server's: a picture, the same one every time, or one line."""

import sys
import warnings

import atheris

with atheris.instrument_imports(include=["PIL", "nearkin.data.images", "nearkin.serve.uploads"]):
    from nearkin.data import images
    from nearkin.data.images import UnreadableImage, picture_size, read_image
    from nearkin.serve import uploads
    from nearkin.serve.problems import Problem

warnings.simplefilter("ignore")
# As large pictures as are worth the fuzzer's time; libjpeg writes what it thinks of damage to the standard error.
images.MAX_PIXELS = uploads.MOST_PIXELS = 500_000


def look(data: bytes) -> None:
    picture, uploaded, lines = None, None, []
    try:
        picture = read_image(data)
    except UnreadableImage as error:
        lines.append(str(error))
    try:
        uploaded = uploads.read_upload(data)
    except Problem as problem:
        lines.append(problem.line)
    assert not any("\n" in line for line in lines)
    if picture is None:
        assert uploaded is None
        return
    assert uploaded is None or (uploaded == picture).all()
    height, width, colours = picture.shape
    assert (colours, picture.dtype) == (3, "uint8")
    assert picture_size(data) == (width, height)
    small = read_image(data, at_least=8)
    assert 2 * min(small.shape[:2]) >= min(16, height, width)


if __name__ == "__main__":
    atheris.Setup(sys.argv, look)
    atheris.Fuzz()
