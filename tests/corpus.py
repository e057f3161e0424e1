"""Pictures as they come: of every kind, with what a person sees in them; and damaged in every way."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, features
from support import encoded

SIDES = (32, 48)  # height and width


def photograph(height=SIDES[0], width=SIDES[1], seed=0):
    """Colours that change slowly, an edge, and some noise; another for each seed."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([220 * y / height, 220 * x / width, np.full(y.shape, 40 * (seed % 6))], axis=2)
    picture += np.random.default_rng(seed).integers(0, 30, picture.shape)
    picture[height // 3 : height // 2, width // 4 : width // 2] = (250, 30, 60)
    return picture.astype(np.uint8)


def seen(data):
    """What Pillow shows of a file: its first frame, upright, in 8 bits, on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image).astype(np.float64) / 65535 * 255 + 0.5).astype(np.uint8)[..., None], 3, 2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png(width, height, data=b"", bits=8, colour=2):
    """A PNG made by hand: its header says anything."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def sound(seed=0):
    """By file name, pictures that are to be read, for all that is odd about them."""
    image = Image.fromarray(photograph(seed=seed))
    grey = image.convert("L")
    blue = Image.new("RGB", image.size, "blue")
    half = image.copy()
    half.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    cmyk = encoded(image.convert("CMYK"), "JPEG", quality=95)
    turned = encoded(image, "JPEG", exif=exif(6))
    files = {
        "plain.jpg": encoded(image, "JPEG", quality=95),
        "progressive.jpg": encoded(image, "JPEG", quality=95, progressive=True),
        "grey.jpg": encoded(grey, "JPEG", quality=95),
        "cmyk.jpg": cmyk,
        "ycck.jpg": cmyk.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2"),
        "two-lenses.jpg": encoded(image, "MPO", save_all=True, append_images=[blue], quality=95),
        **{f"turned-{o}.jpg": encoded(image, "JPEG", quality=95, exif=exif(o)) for o in range(1, 9)},
        **{f"turned-{o}.png": encoded(image, "PNG", exif=exif(o)) for o in (3, 5, 8)},
        "corrupt-exif.jpg": turned.replace(b"\x01\x12\x00\x03", b"\x01\x12\xff\xff"),
        "rubbish-exif.jpg": encoded(image, "JPEG", quality=95, exif=b"Exif\0\0" + bytes(range(200))),
        "rubbish-profile.jpg": encoded(image, "JPEG", quality=95, icc_profile=b"\xff\xd8rubbish" * 99),
        "rubbish-profile.png": encoded(image, "PNG", icc_profile=b"rubbish"),
        "zeros-behind.jpg": encoded(image, "JPEG", quality=95) + bytes(999),
        "zeros-behind.png": encoded(image, "PNG") + bytes(999),
        "plain.png": encoded(image, "PNG"),
        "one-bit.png": encoded(grey.convert("1"), "PNG"),
        "grey-alpha.png": encoded(half.convert("LA"), "PNG"),
        "alpha.png": encoded(half, "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette-one-clear.png": encoded(palette, "PNG", transparency=3),
        "palette-half-clear.png": encoded(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "animated.png": encoded(image, "PNG", save_all=True, append_images=[blue], duration=9),
        "plain.gif": encoded(palette, "GIF"),
        "animated.gif": encoded(palette, "GIF", save_all=True, append_images=[blue], duration=9),
        "plain.webp": encoded(image, "WEBP", quality=95),
        "alpha.webp": encoded(half, "WEBP", lossless=True),
        "animated.webp": encoded(image, "WEBP", save_all=True, append_images=[blue], duration=9, lossless=True),
        "plain.tif": encoded(image, "TIFF"),
        "deep.tif": encoded(deep, "TIFF"),
        "lzw.tiff": encoded(image, "TIFF", compression="tiff_lzw"),
        "fax.tiff": encoded(grey.convert("1"), "TIFF", compression="group4"),
        "cmyk.tiff": encoded(image.convert("CMYK"), "TIFF"),
        "pages.tiff": encoded(
            Image.fromarray(photograph(seed=seed)), "TIFF", save_all=True, append_images=[blue.copy()]
        ),
        "plain.bmp": encoded(image, "BMP"),
        "plain.ppm": encoded(image, "PPM"),
        "really-a-png.jpg": encoded(image, "PNG"),
        "really-a-jpeg.gif": encoded(image, "JPEG", quality=95),
        "no-extension": encoded(image, "WEBP", quality=95),
    }
    if features.check("avif"):
        files["plain.avif"] = encoded(image, "AVIF", quality=95)
    return files


def whole(seed=0):
    """One file of each format."""
    files = sound(seed)
    kinds = ("plain.jpg", "progressive.jpg", "plain.png", "plain.gif", "plain.webp", "lzw.tiff", "plain.bmp")
    return {name: files[name] for name in kinds}


def broken():
    """By file name, what has to be refused."""
    cut = {
        f"cut-{tenth}-{name}": data[: len(data) * tenth // 10]
        for name, data in whole().items()
        for tenth in range(1, 10)
    }
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\x00\x02\x02\x44\x01\x00\x3b"
    jpeg = bytearray(whole()["plain.jpg"])
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    bmp = bytearray(whole()["plain.bmp"])
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    return cut | {
        "empty.jpg": b"",
        "one-byte.jpg": b"\xff",
        "zeros.jpg": bytes(999),
        "text.jpg": b"Dear all, the pictures are on the other disk.\n",
        "page.png": b"<!doctype html><script>alert(1)</script>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
        "name-alone.png": b"\x89PNG\r\n\x1a\n",
        "huge.png": png(60_000, 60_000),
        "huge.jpg": bytes(jpeg),
        "huge.bmp": bytes(bmp),
        "huge.ppm": b"P6 60000 60000 255\n",
        "huge.gif": b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame,
        "no-width.png": png(0, 9),
        "no-pixels.png": png(9, 9),
    }


def flipped(number, seed=0):
    """By file name, pictures of which some bits have changed: who can say whether they are to be read?"""
    random = np.random.default_rng(seed)
    files = {}
    for name, data in whole().items():
        for turn in range(number):
            damaged = np.frombuffer(data, np.uint8).copy()
            places = random.integers(len(data), size=random.integers(1, 5))
            damaged[places] ^= (1 << random.integers(8, size=len(places))).astype(np.uint8)
            files[f"flipped-{turn}-{name}"] = damaged.tobytes()
    return files
