"""What a stranger sends as a picture: looked at before it is decoded, and never believed."""

from http import HTTPStatus

from nearkin.data.images import JPEG, Picture, UnreadableImage, picture_size, read_image
from nearkin.serve.problems import Problem

START_OF_SCAN = b"\xff\xda"  # nowhere else in a JPEG's pixels: there a zero follows every 255

MOST_BYTES = 20 * 2**20
MOST_SCANS = 100
"""Passes over a progressive JPEG. Cameras and converters make about ten; each takes as long as the picture is large,
and some twenty bytes are enough for one."""

MOST_PIXELS = 50_000_000
"""150 MB once decoded: any phone's photograph, and no bomb."""


def read_upload(data: bytes, at_least: int | None = None) -> Picture:
    """Decode an upload, upright RGB (H, W, 3).

    Raises:
        Problem: Empty, no picture, damaged, or too large: 400, 413 or 415 with one line.
    """
    if not data:
        raise Problem(HTTPStatus.BAD_REQUEST, "expected a picture, got an empty body")
    try:
        width, height = picture_size(data)
        if width * height > MOST_PIXELS:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the picture has {width:,} x {height:,} pixels, the limit is {MOST_PIXELS // 10**6} megapixels",
            )
        if data.startswith(JPEG) and data.count(START_OF_SCAN) > MOST_SCANS:
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the JPEG has more than {MOST_SCANS} scans")
        return read_image(data, at_least)
    except UnreadableImage as error:
        reason = " ".join(str(error).removeprefix("image: ").split())
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the upload cannot be used: {reason}") from error
