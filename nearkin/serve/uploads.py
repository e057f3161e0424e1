"""What a stranger sends as a picture: looked at before it is decoded, and never believed."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from nearkin.data.images import UnreadableImage
from nearkin.serve.decoding import Decoders, File
from nearkin.serve.problems import Problem

MOST_BYTES = 20 * 2**20

MOST_PIXELS = 50_000_000
"""150 MB once decoded: any phone's photograph, and no bomb."""


@contextmanager
def uploaded(data: bytes, decoders: Decoders) -> Iterator[File]:
    """An upload that was looked at, to be decoded inside.

    Raises:
        Problem: Empty, no picture, damaged, or too large: 400, 413 or 415 with one line.
    """
    if not data:
        raise Problem(HTTPStatus.BAD_REQUEST, "expected a picture, got an empty body")
    try:
        file = decoders.look(data)
        if file.width * file.height > MOST_PIXELS:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the picture has {file.width:,} x {file.height:,} pixels, the limit is {MOST_PIXELS // 10**6} "
                "megapixels",
            )
        yield file
    except UnreadableImage as error:
        reason = " ".join(str(error).removeprefix("image: ").split())
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the upload cannot be used: {reason}") from error
