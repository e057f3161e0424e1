"""Files that are not what they seem, or more than they seem."""

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image
from support import encoded

NOISE = Image.fromarray(np.random.default_rng(2).integers(256, size=(90, 120, 3), dtype=np.uint8))
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"
PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n"
BMP, JPEG, GIF = encoded(NOISE, "BMP"), encoded(NOISE, "JPEG"), encoded(Image.new("P", (10, 10)), "GIF")
WEBP = encoded(NOISE.convert("RGBA"), "WEBP")


def deflated(megabytes):
    """Zeros in a thousandth of their size."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(10**6)) for _ in range(megabytes)) + packer.flush()


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("evil.html", HTML)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    """A PNG of grey pixels with these chunks behind its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")])


def black(width, height, rows, *before):
    """A PNG of which only some rows are there, with more chunks before them."""
    return png(width, height, *before, chunk(b"IDAT", zlib.compress(bytes((width + 1) * rows), 9)))


def gif_bomb():
    """A GIF of one by one pixels with a frame of 65,535 x 65,535."""
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\x00\x02\x02\x44\x01\x00\x3b"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame


def gif_of_frames(frames):
    first = GIF.index(b"\x2c")
    return GIF[:-1] + GIF[first:-1] * (frames - 1) + b";"


def tiff(width, height, *tags, body=bytes(100)):
    """A TIFF of 8-bit grey pixels with these tags (number, type, count, value) beside; its body begins at 8."""
    own = [(256, 4, 1, width), (257, 4, 1, height), (258, 4, 1, 8), (262, 4, 1, 1), (277, 4, 1, 1)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in (*own, *tags))
    count = struct.pack("<H", len(own) + len(tags))
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + count + entries + bytes(4)


IN_ONE_STRIP = ((259, 4, 1, 1), (273, 4, 1, 8), (279, 4, 1, 100))  # uncompressed, where it is, how long it is


def tiff_of_strips(strips):
    """Four pixels wide and as high as it has strips, all of which lie at its first pixel."""
    body = struct.pack("<I", 8) * strips + struct.pack("<I", 4) * strips
    places = ((259, 4, 1, 1), (273, 4, strips, 8), (278, 4, 1, 1), (279, 4, strips, 8 + 4 * strips))
    return tiff(4, strips, *places, body=body)


def tiff_of_tile(side):
    return tiff(9, 9, (259, 4, 1, 8), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, 100))


def jpeg_of_scans(side, scans):
    """A progressive JPEG whose last scan comes again and again: each is work for all of the picture."""
    sound = encoded(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = sound.rindex(b"\xff\xda")
    return sound[:last] + scans * sound[last:-2] + sound[-2:]


REFUSED = {
    "nothing": (b"", 400, "expected a picture, got an empty body"),
    "an SVG": (SVG, 415, "the upload cannot be used: not a picture"),
    "a packed SVG": (gzip.compress(SVG), 415, "not a picture"),
    "HTML": (HTML, 415, "not a picture"),
    "zeros": (bytes(100), 415, "not a picture"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "not a picture"),
    "a PDF": (PDF, 415, "not a picture"),
    "a zip": (archive(), 415, "not a picture"),
    "an icon": (b"\0\0\1\0\1\0" + bytes(100), 415, "not a picture"),
    "a film": (b"\0\0\0\x18ftypmp42" + bytes(100), 415, "not a picture"),
    "a program": (b"\x7fELF" + bytes(100), 415, "not a picture"),
    "a PNG's name alone": (b"\x89PNG\r\n\x1a\n", 415, "the upload cannot be used"),
    "HTML that begins as a PNG": (b"\x89PNG\r\n\x1a\n" + HTML, 415, "the upload cannot be used"),
    "a PNG without pixels": (png(9, 9), 415, "the upload cannot be used"),
    "half a PNG": (encoded(NOISE, "PNG")[:9000], 415, "truncated"),
    "half a JPEG": (JPEG[:2000], 415, "truncated"),
    "half a WebP": (encoded(NOISE, "WEBP")[:2000], 415, "the upload cannot be used"),
    "half a TIFF": (encoded(NOISE, "TIFF")[:2000], 415, "the upload cannot be used"),
    "a bomb": (black(60_000, 60_000, 100), 413, "the picture has 60,000 x 60,000 pixels, the limit is 50 megapixels"),
    "a whole bomb": (black(10_000, 6_000, 6_000), 413, "the picture has 10,000 x 6,000 pixels"),
    "a bomb of a GIF": (gif_bomb(), 415, "the upload cannot be used"),
    "a bomb of a PPM": (b"P6 60000 60000 255\n", 413, "60,000 x 60,000"),
    "a bomb of a BMP": (BMP[:18] + struct.pack("<ii", 60_000, 60_000) + BMP[26:], 413, "60,000 x 60,000"),
    "a bomb of a TIFF": (tiff(60_000, 60_000, *IN_ONE_STRIP), 413, "60,000 x 60,000"),
    "a bomb of a WebP": (WEBP[:24] + b"\xff" * 6 + WEBP[30:], 415, "the upload cannot be used"),
    "a bomb in a PNG's text": (black(9, 9, 9, chunk(b"zTXt", b"a\0\0" + deflated(100))), 415, "cannot be used"),
    "many of them": (black(9, 9, 9, *[chunk(b"zTXt", b"a\0\0" + deflated(1))] * 100), 415, "cannot be used"),
    "a bomb in a PNG's profile": (black(9, 9, 9, chunk(b"iCCP", b"a\0\0" + deflated(100))), 415, "cannot be used"),
    "a bomb of a TIFF's tile": (tiff_of_tile(30_000), 415, "the upload cannot be used"),
}

SOUND = {
    "a zip behind a GIF": GIF + archive(),
    "HTML behind a JPEG": JPEG + HTML,
    "HTML in a PNG": black(9, 9, 9, chunk(b"tEXt", b"Comment\0" + HTML)),
    "a PDF in a PNG": black(9, 9, 9, chunk(b"tEXt", b"Comment\0" + PDF)),
    "pixels behind the last row of a PNG": png(9, 9, chunk(b"IDAT", deflated(200))),
    "a GIF of 100,000 frames": gif_of_frames(100_000),
    "a WebP of 200 frames": encoded(NOISE, "WEBP", save_all=True, append_images=[NOISE.convert("L")] * 199, method=0),
    "a TIFF whose tags are all of it": tiff(
        9, 9, *IN_ONE_STRIP, *((number, 1, 10**6, 8) for number in range(1_000, 41_000)), body=bytes(10**6)
    ),
    "a TIFF of one pixel in a strip": tiff_of_strips(1_000),
    "a small JPEG of 500 scans": jpeg_of_scans(64, 500),
}
"""Polyglots, and more than is looked at: pictures all the same."""
