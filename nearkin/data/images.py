"""Any picture a person may have -> upright RGB -> a square array."""

import io
import os
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.ImageFile import ImageFile

Source = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]
Fit = Literal["squash", "crop", "pad"]

# 1 GB once decoded: room for a 200-megapixel phone photo, not for a decompression bomb.
MAX_PIXELS = 250_000_000

# Pillow decodes these in-process; others start Ghostscript or are hardly ever tested on hostile files.
# MPO, the JPEG of two-lens cameras, opens as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
Image.init()  # fills Image.OPEN

UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(ValueError):  # noqa: N818
    """A picture that cannot be used; the message is one line: its name, then the reason."""


def read_image(source: Source, at_least: int | None = None) -> Image.Image:
    """Read a picture in any common format, bit depth and colour mode as upright 8-bit RGB.

    EXIF orientation is applied, transparency shown on white, 16-bit grey scaled by its range; of an animation
    or a multi-page file the first frame is read.

    Args:
        source: A path, the bytes of a file, a binary file object (read from where it stands), a Pillow image,
            or a uint8 array (H, W, 3) or (H, W).
        at_least: Side in pixels that the picture will be shrunk to. A JPEG may then be decoded at 1/2, 1/4 or
            1/8 of its size, which is faster, with both sides still twice that or more (whole, if smaller).

    Raises:
        UnreadableImage: Empty, truncated, damaged, no picture, or more than MAX_PIXELS.
        OSError: The file cannot be opened, such as FileNotFoundError.
        ValueError: An array of another type or shape; at_least below 1.
    """
    if at_least is not None and at_least < 1:
        raise ValueError(f"at_least must be 1 or more, got {at_least}")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, getattr(source, "filename", "") or "image")
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "image", at_least)
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            return _read(file, os.fspath(source), at_least)
    if hasattr(source, "read"):
        return _read(io.BytesIO(source.read()), str(getattr(source, "name", "image")), at_least)
    kind = type(source).__name__
    raise TypeError(f"expected a path, bytes, a binary file, a Pillow image or an array, got {kind}")


def to_square(image: Image.Image, size: int, fit: Fit = "squash") -> NDArray[np.uint8]:
    """Resize an RGB image, antialiased, to a uint8 array (size, size, 3).

    Args:
        image: An RGB image of any shape.
        size: Side in pixels, at least 1.
        fit: "squash" ignores the aspect ratio, "crop" keeps the central square, "pad" keeps all, on white.
    """
    fits = get_args(Fit)
    if image.mode != "RGB" or size < 1 or fit not in fits:
        raise ValueError(f"expected mode RGB, size >= 1 and fit in {fits}, got {image.mode}, {size}, {fit!r}")
    width, height = image.size
    if fit == "pad":
        scale = size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        square = Image.new("RGB", (size, size), "white")
        square.paste(_resize(image, inner), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return np.array(square)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return np.array(_resize(image, (size, size), (left, top, left + side, top + side)))
    return np.array(_resize(image, (size, size)))


def _resize(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=2.0)


def _from_array(array: NDArray[Any]) -> Image.Image:
    colour = array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (colour or array.ndim == 2) or not array.size:
        raise ValueError(f"expected a uint8 array (H, W, 3) or (H, W), got {array.dtype} {array.shape}")
    return Image.fromarray(array).convert("RGB")


def _read(file: IO[bytes], name: str, at_least: int | None) -> Image.Image:
    image = _open(file, name)
    width, height = image.size
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 10**6} megapixels"
        raise UnreadableImage(f"{name}: {width} x {height} pixels, the limit is {limit}")
    if at_least is not None:
        image.draft(None, (2 * at_least, 2 * at_least))
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow would apply its own limit as it allocates
        stored = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        image.im = Image.new(image.mode, stored).im
    return _decode(image, name)


def _open(file: IO[bytes], name: str) -> ImageFile:
    """Parse the header only.

    What Image.open does, less its limit: that one is global to the process, and refuses 200-megapixel photos.
    """
    prefix = file.read(16)
    if not prefix:
        raise UnreadableImage(f"{name}: empty file")
    file.seek(0)
    for factory, accept in (Image.OPEN[key] for key in FORMATS if key in Image.OPEN):
        if accept is not None and accept(prefix) is True:
            try:
                return factory(file, "")
            except Exception as error:
                raise UnreadableImage(f"{name}: {_reason(error)}") from error
    raise UnreadableImage(f"{name}: not a picture ({', '.join(FORMATS)})")


def _decode(image: Image.Image, name: str) -> Image.Image:
    # Damaged bytes make Pillow raise OSError, SyntaxError, EOFError, struct.error, zlib.error, ...
    try:
        image.load()
        rgb = _to_rgb(image)
    except Exception as error:
        raise UnreadableImage(f"{name}: {_reason(error)}") from error
    turn = UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


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
