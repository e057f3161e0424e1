"""Any picture a person may have -> upright RGB -> a square array.

simplejpeg (libjpeg-turbo) decodes every sound JPEG of grey or colour, the same pixels as Pillow's in less time; Pillow
all else. PyTorch resizes, antialiased as Pillow does, to within 1 of 255, in a third of the time.

Whoever changes the pixels that come out here, or what cannot be read, raises `LAYOUT` in `nearkin.data.cache`: there is
nothing else by which a cache would know.

Shape key: H, W = height and width of a picture.
"""

import errno
import io
import os
import stat
from collections.abc import Callable
from typing import IO, Any, Literal, get_args

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.ImageFile import ImageFile

from nearkin.errors import printable

Source = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]
Fit = Literal["squash", "crop", "pad"]

Picture = NDArray[np.uint8]
"""Upright RGB (H, W, 3)."""

# 1 GB once decoded: room for a 200-megapixel phone photo, not for a decompression bomb.
MAX_PIXELS = 250_000_000

# Of a file, which is read as a whole: among the pictures there may be a film.
MAX_BYTES = 2**30

# Pillow decodes these in-process; others start Ghostscript or are hardly ever tested on hostile files.
# MPO, the JPEG of two-lens cameras, opens as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
Image.init()  # fills Image.OPEN

JPEG = b"\xff\xd8\xff"  # how one begins

UPRIGHT: dict[int, Callable[[Picture], Picture]] = {  # EXIF orientation -> what undoes it
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}


class UnreadableImage(ValueError):  # noqa: N818
    """A picture that cannot be used; the message is one line: its name, then the reason."""


def refusal(name: str | os.PathLike[str], reason: str) -> UnreadableImage:
    """The error of a picture of this name, which may have any characters in it."""
    return UnreadableImage(printable(f"{os.fsdecode(name)}: {reason}"))


def unreadable(path: str | os.PathLike[str], error: OSError) -> UnreadableImage:
    """What a file that is gone, or not ours to read, is among many pictures."""
    return refusal(path, error.strerror or str(error))


def open_picture(path: str | os.PathLike[str], pipe: bool = False) -> IO[bytes]:
    """Open a file that will be read as a whole.

    Args:
        path: The file.
        pipe: Take a pipe as well, and wait for who writes to it.

    Raises:
        OSError: It cannot be opened, is larger than MAX_BYTES, or a pipe or a device, which may never end.
    """

    def opener(path: str, flags: int) -> int:
        file = os.open(path, flags if pipe else flags | os.O_NONBLOCK)  # which opens a pipe that nobody writes to
        about = os.fstat(file)
        if about.st_size > MAX_BYTES:
            code, reason = errno.EFBIG, f"{about.st_size / 2**30:.1f} GB, the limit of a file is 1 GB"
        elif pipe or stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode):  # folders Python refuses itself
            return file
        else:
            code, reason = errno.EINVAL, "no file, but a pipe or a device"
        os.close(file)
        raise OSError(code, reason, os.fspath(path))

    return open(path, "rb", opener=opener)


def read_image(source: Source, at_least: int | None = None) -> Picture:
    """Read a picture in any common format, bit depth and colour mode as upright 8-bit RGB (H, W, 3).

    EXIF orientation is applied, transparency shown on white, 16-bit grey scaled by its range; of an animation
    or a multi-page file the first frame is read.

    Args:
        source: A path, the bytes of a file, a binary file object (read from where it stands), a Pillow image,
            or a uint8 array (H, W, 3) or (H, W).
        at_least: Side in pixels that the picture will be shrunk to. A JPEG may then be decoded at 1/2, 1/4 or
            1/8 of its size, which is faster, with both sides still twice that or more (whole, if smaller).

    Raises:
        UnreadableImage: Empty, truncated, damaged, no picture, or more than MAX_PIXELS.
        OSError: The file cannot be opened, such as FileNotFoundError, or as in `open_picture`.
        ValueError: An array of another type or shape; at_least below 1.
    """
    if at_least is not None and at_least < 1:
        raise ValueError(f"at_least must be 1 or more, got {at_least}")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _upright(_decode(source, getattr(source, "filename", "") or "image"), source)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "image", at_least)
    if isinstance(source, str | os.PathLike):
        with open_picture(source) as file:
            return _read(file, os.fspath(source), at_least)
    if hasattr(source, "read"):
        return _read(io.BytesIO(source.read()), str(getattr(source, "name", "image")), at_least)
    kind = type(source).__name__
    raise TypeError(f"expected a path, bytes, a binary file, a Pillow image or an array, got {kind}")


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture in a file's content, upright; only its header is read.

    Raises:
        UnreadableImage: It is no picture, or its header is damaged.
    """
    image = _open(io.BytesIO(data), "image")
    width, height = image.size
    return (height, width) if 5 <= _orientation(image) <= 8 else (width, height)


def to_square(picture: Picture, size: int, fit: Fit = "squash") -> Picture:
    """Resize a picture (H, W, 3), antialiased, to (size, size, 3).

    Args:
        picture: RGB of any height and width.
        size: Side in pixels, at least 1.
        fit: "squash" ignores the aspect ratio, "crop" keeps the central square, "pad" keeps all, on white.
    """
    fits = get_args(Fit)
    if picture.ndim != 3 or picture.shape[2] != 3 or size < 1 or fit not in fits:
        raise ValueError(f"expected (H, W, 3), size >= 1 and fit in {fits}, got {picture.shape}, {size}, {fit!r}")
    height, width, _ = picture.shape
    if fit == "pad":
        scale = size / max(height, width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = ((size - side) // 2 for side in inner)
        square = np.full((size, size, 3), 255, dtype=np.uint8)
        square[top : top + inner[0], left : left + inner[1]] = _resize(picture, inner)
        return square
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        picture = picture[top : top + side, left : left + side]
    return _resize(picture, (size, size))


def _resize(picture: Picture, size: tuple[int, int]) -> Picture:
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]  # (1, 3, H, W), channels last as it was
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def _from_array(array: NDArray[Any]) -> Picture:
    colour = array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (colour or array.ndim == 2) or not array.size:
        raise ValueError(f"expected a uint8 array (H, W, 3) or (H, W), got {array.dtype} {array.shape}")
    return array.copy() if colour else np.repeat(array[:, :, None], 3, axis=2)


def _read(file: IO[bytes], name: str, at_least: int | None) -> Picture:
    begins = file.read(len(JPEG))
    file.seek(0)
    if begins == JPEG:
        data = file.read()
        file = io.BytesIO(data)
        picture = _read_jpeg(data, name, at_least)
        if picture is not None:
            return _upright(picture, _open(file, name)) if _may_be_turned(data) else picture
    image = _open(file, name)
    _check_size(*image.size, name)
    if at_least is not None:
        image.draft(None, (2 * at_least, 2 * at_least))
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow would apply its own limit as it allocates
        stored = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        image.im = Image.new(image.mode, stored).im
    return _upright(_decode(image, name), image)


def _read_jpeg(data: bytes, name: str, at_least: int | None) -> Picture | None:
    """A JPEG as it is stored; None if it is damaged, or of CMYK (which simplejpeg converts in another way), for Pillow.

    At full size, 1/2, 1/4 or 1/8: libjpeg-turbo is slow at the fractions in between.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, name)
        if colours in ("CMYK", "YCCK"):
            return None
        room = 1 if at_least is None else min(height, width) // (2 * at_least)
        part = next((part for part in (8, 4, 2) if part <= room), 1)
        picture: Picture = simplejpeg.decode_jpeg(data, min_height=-(-height // part), min_width=-(-width // part))
        return picture
    except UnreadableImage:
        raise
    except ValueError:  # damage, and also what libjpeg only warns of, such as a file that ends too early
        return None


def _may_be_turned(data: bytes) -> bool:
    """Whether a JPEG has a segment for EXIF or XMP (APP1) before its pixels, or any that this does not understand."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xE1, 0xFF):
        if data[at + 1] == 0xDA:  # the pixels begin
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return True


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 10**6} megapixels"
        raise refusal(name, f"{width} x {height} pixels, the limit is {limit}")


def _open(file: IO[bytes], name: str) -> ImageFile:
    """Parse the header only.

    What Image.open does, less its limit: that one is global to the process, and refuses 200-megapixel photos.
    """
    prefix = file.read(16)
    if not prefix:
        raise refusal(name, "empty file")
    file.seek(0)
    for factory, accept in (Image.OPEN[key] for key in FORMATS if key in Image.OPEN):
        if accept is not None and accept(prefix) is True:
            try:
                return factory(file, "")
            except Exception as error:
                raise refusal(name, _reason(error)) from error
    raise refusal(name, f"not a picture ({', '.join(FORMATS)})")


def _decode(image: Image.Image, name: str) -> Picture:
    # Damaged bytes make Pillow raise OSError, SyntaxError, EOFError, struct.error, zlib.error, ...
    try:
        image.load()
        return np.array(_to_rgb(image))
    except Exception as error:
        raise refusal(name, _reason(error)) from error


def _upright(picture: Picture, image: Image.Image) -> Picture:
    """Undo the orientation that the image's EXIF tells of."""
    turn = UPRIGHT.get(_orientation(image))
    return picture if turn is None else np.ascontiguousarray(turn(picture))


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if "truncated" in text.lower():
        return "truncated"
    if isinstance(error, OSError | ValueError | RuntimeError | Image.DecompressionBombError):
        return f"cannot be decoded ({text})"
    return "not a picture, or a damaged one"  # SyntaxError, struct.error: Pillow's words would not help


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # I, I;16, I;16B, F, ...: Pillow would clip these at 255
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(picture, mask=picture)
        return white
    return image.convert("RGB")


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 16-bit integers or floats to 0..255.

    Floats come without a range: theirs is the smallest usual one that holds the brightest pixel.
    """
    top = 65535
    if np.issubdtype(values.dtype, np.floating):
        values = np.nan_to_num(values)
        top = next((usual for usual in (1, 255) if values.max() <= usual), top)
    return ((values.astype(np.float32) / top).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # corrupt EXIF: the picture itself is good
        return 1
