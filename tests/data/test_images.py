import contextlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from nearkin.data.images import UnreadableImage, picture_size, read_image, to_square

# What read_image promises holds without a single warning from Pillow.
pytestmark = pytest.mark.filterwarnings("error")

without_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
AVIF = pytest.param("AVIF", marks=without_avif)


@pytest.fixture
def picture():
    """(16, 24, 3), every pixel another colour."""
    y, x = np.mgrid[:16, :24]
    return np.stack([y * 16, x * 10, (x + y) * 6], axis=2).astype(np.uint8)


@pytest.fixture
def photo():
    """(400, 600, 3), smooth, so that JPEG hardly changes it."""
    y, x = np.mgrid[:400, :600]
    return np.stack([y * 0.6, x * 0.4, 255 - (x + y) * 0.25], axis=2).astype(np.uint8)


def encode(image, format, **options):
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, format, **options)
    return file.getvalue()


def as_ycck(cmyk):
    """The bytes of a CMYK JPEG with the marker that says that C, M, Y are stored as Y, Cb, Cr."""
    marker = b"Adobe\x00\x64\x00\x00\x00\x00"
    return cmyk.replace(marker + b"\0", marker + b"\2")


def png(width, height, bits=1, colour=0, data=b""):
    """A PNG made by hand: its header says anything."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def no_decoding(*args):
    pytest.fail("decoded")


class TestSources:
    def test_path_bytes_file_image_and_array(self, picture, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(encode(picture, "PNG"))
        with path.open("rb") as file, Image.open(path) as image:
            for source in (path, str(path), path.read_bytes(), file, image, picture):
                result = read_image(source)
                assert result.dtype == np.uint8
                np.testing.assert_array_equal(result, picture)
            assert not file.closed

    def test_a_callers_image_stays_as_it_is(self, picture):
        image = Image.fromarray(picture)
        read_image(image)[:] = 7
        np.testing.assert_array_equal(image, picture)
        array = picture.copy()
        read_image(array)[:] = 7
        np.testing.assert_array_equal(array, picture)

    def test_grey_array(self):
        grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
        np.testing.assert_array_equal(read_image(grey), np.stack([grey] * 3, axis=2))

    @pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 4), "uint8"), np.zeros((0, 4, 3), "uint8")])
    def test_other_arrays(self, bad):
        with pytest.raises(ValueError, match=r"expected a uint8 array .* got"):
            read_image(bad)

    def test_other_types(self):
        with pytest.raises(TypeError, match="got int"):
            read_image(3)

    def test_at_least_is_a_size(self, picture):
        with pytest.raises(ValueError, match="at_least must be 1 or more, got 0"):
            read_image(picture, at_least=0)

    def test_missing_file_and_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read_image(tmp_path / "nowhere.jpg")
        with pytest.raises(OSError, match=r"directory|denied"):
            read_image(tmp_path)

    def test_the_name_may_lie(self, picture, tmp_path):
        path = tmp_path / "really-a-png.jpg"
        path.write_bytes(encode(picture, "PNG"))
        np.testing.assert_array_equal(read_image(path), picture)


class TestModes:
    @pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF"])
    def test_lossless_formats(self, picture, format):
        np.testing.assert_array_equal(read_image(encode(picture, format)), picture)

    @pytest.mark.parametrize("format", ["JPEG", "WEBP", "MPO", AVIF])
    def test_lossy_formats(self, photo, format):
        np.testing.assert_allclose(read_image(encode(photo, format, quality=95)), photo.astype(float), atol=8)

    def test_one_bit_and_grey(self, picture):
        grey = Image.fromarray(picture).convert("L")
        for image in (grey, grey.convert("1")):
            np.testing.assert_array_equal(
                read_image(encode(image, "PNG")), np.stack([np.asarray(image.convert("L"))] * 3, axis=2)
            )

    def test_palette(self):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putpixel((1, 0), 1)
        np.testing.assert_array_equal(read_image(encode(image, "PNG")), [[[255, 0, 0], [0, 0, 255]]])
        for transparency in (0, b"\0\xff"):  # the two ways a PNG palette has
            data = encode(image, "PNG", transparency=transparency)
            np.testing.assert_array_equal(read_image(data), [[[255, 255, 255], [0, 0, 255]]])

    @pytest.mark.parametrize(("mode", "colour"), [("RGBA", (0, 0, 0)), ("LA", (0,))])
    def test_transparency_shows_white(self, mode, colour):
        image = Image.new(mode, (3, 1))
        for x, alpha in enumerate((0, 51, 255)):
            image.putpixel((x, 0), (*colour, alpha))
        np.testing.assert_array_equal(read_image(encode(image, "PNG")), [[[255] * 3, [204] * 3, [0] * 3]])

    @pytest.mark.parametrize("transparent", ["L", "RGB"])
    def test_transparent_colour(self, transparent):
        image = Image.new(transparent, (2, 1), "black")
        image.putpixel((1, 0), 9 if transparent == "L" else (9, 9, 9))
        data = encode(image, "PNG", transparency=image.getpixel((0, 0)))
        np.testing.assert_array_equal(read_image(data), [[[255] * 3, [9] * 3]])

    @pytest.mark.parametrize(
        ("format", "dtype"),
        [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("TIFF", "<i4"), ("PPM", "<i4")],
    )
    def test_sixteen_bits_are_scaled_not_clipped(self, format, dtype):
        values = np.arange(0, 65536, 257).reshape(16, 16)
        result = np.asarray(read_image(encode(values.astype(dtype), format)))
        np.testing.assert_array_equal(result, np.stack([values // 257] * 3, axis=2))

    def test_sixteen_bit_mode_of_an_image_in_memory(self):
        assert read_image(Image.new("I;16B", (1, 1), 0x8000)).tolist() == [[[128] * 3]]

    @pytest.mark.parametrize("top", [1, 255, 65535])
    def test_floats(self, top):
        values = np.linspace(0, top, 256, dtype=np.float32).reshape(16, 16)
        result = np.asarray(read_image(encode(values, "TIFF")))[..., 0]
        np.testing.assert_array_equal(result, np.arange(256).reshape(16, 16))

    def test_floats_that_are_no_numbers(self):
        values = np.array([[np.nan, -np.inf, 0.5]], dtype=np.float32)
        np.testing.assert_array_equal(read_image(Image.fromarray(values)), [[[0] * 3, [0] * 3, [128] * 3]])

    @pytest.mark.parametrize("format", ["JPEG", "TIFF"])
    def test_cmyk(self, format):
        image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        np.testing.assert_allclose(read_image(encode(image, format)), np.full((16, 16, 3), (255, 0, 0)), atol=4)

    def test_ycck(self):
        # Both Adobe and Pillow store 255 - value; marker byte 2 says that C, M, Y are stored as Y, Cb, Cr.
        cyan = Image.new("RGB", (1, 1), "cyan").convert("YCbCr").getpixel((0, 0))
        data = encode(Image.new("CMYK", (16, 16), (*(255 - v for v in cyan), 0)), "JPEG")
        np.testing.assert_allclose(read_image(as_ycck(data)), np.full((16, 16, 3), (255, 0, 0)), atol=4)

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_first_frame_of_many(self, format):
        red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
        options = {"lossless": True} if format == "WEBP" else {}
        data = encode(red, format, save_all=True, append_images=[blue], **options)
        assert read_image(data)[8, 8].tolist() == [255, 0, 0]


class TestJpeg:
    """What is decoded outside Pillow has Pillow's pixels, and Pillow has the last word on what is not sound."""

    KINDS = (
        *({"subsampling": each} for each in ("4:4:4", "4:2:2", "4:2:0")),
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"quality": 5, "optimize": True},
    )

    @pytest.mark.parametrize("options", KINDS, ids=str)
    @pytest.mark.parametrize("side", [(97, 130), (16, 400), (401, 255)])
    @pytest.mark.parametrize("at_least", [None, 3, 20, 100])
    def test_the_pixels_of_pillow(self, options, side, at_least):
        noise = np.random.default_rng(0).integers(256, size=(*side, 3)).astype(np.uint8)
        for stored in (noise, noise[..., 0]):
            data = encode(stored, "JPEG", **options)
            image = Image.open(io.BytesIO(data))
            if at_least is not None:
                image.draft(None, (2 * at_least, 2 * at_least))
            np.testing.assert_array_equal(read_image(data, at_least), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("stored_as", ["CMYK", "YCCK"])
    @pytest.mark.parametrize("at_least", [None, 3, 20])
    def test_four_colours_are_left_to_pillow(self, stored_as, at_least):
        noise = np.random.default_rng(0).bytes(4 * 97 * 130)
        data = encode(Image.frombytes("CMYK", (130, 97), noise), "JPEG", quality=95)
        data = as_ycck(data) if stored_as == "YCCK" else data
        image = Image.open(io.BytesIO(data))
        if at_least is not None:
            image.draft(None, (2 * at_least, 2 * at_least))
        np.testing.assert_array_equal(read_image(data, at_least), np.asarray(image.convert("RGB")))

    def test_sound_ones_are_not_left_to_pillow(self, photo, monkeypatch):
        monkeypatch.setattr(ImageFile.ImageFile, "load", no_decoding)
        assert read_image(encode(photo, "JPEG", exif=exif(6))).shape == (600, 400, 3)
        assert read_image(encode(photo[..., 0], "JPEG"), at_least=30).shape == (100, 150, 3)

    def test_what_libjpeg_only_warns_of_is_pillows_to_judge(self, photo):
        data = encode(photo, "JPEG")
        stray = data[:-2] + b"\0\0\0" + data[-2:]  # bytes between the last pixel and the end: some cameras do so
        np.testing.assert_array_equal(read_image(stray), read_image(data))

    def test_a_bomb(self, photo, monkeypatch):
        data = bytearray(encode(photo, "JPEG"))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
        monkeypatch.setattr("simplejpeg.decode_jpeg", no_decoding)
        with pytest.raises(UnreadableImage, match="60000 x 60000 pixels, the limit is 250 megapixels"):
            read_image(bytes(data), at_least=30)

    def test_orientation_behind_other_segments(self, photo):
        data = encode(photo, "JPEG", exif=exif(6), comment=b"\xff\xda\xff\xe0")
        start = data.index(b"\xff\xe1")
        profile = b"\xff\xe2\x00\x08\xff\xda\x00\x02\xff\xda"  # holds what looks like the start of the pixels
        for before in (profile, profile + b"\xff", b"\xff\xff\xff"):  # and any number of bytes 255 may stand there
            assert read_image(data[:start] + before + data[start:]).shape == (600, 400, 3)

    def test_orientation_in_xmp(self, photo):
        data = encode(photo, "JPEG", xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>')
        assert read_image(data).shape == (600, 400, 3)


# Where the file's row 0 and column 0 lie in the upright picture, from the EXIF specification.
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def upright(stored, row0, column0):
    result = stored if row0 in ("top", "bottom") else stored.swapaxes(0, 1)
    result = result[::-1] if "bottom" in (row0, column0) else result
    return result[:, ::-1] if "right" in (row0, column0) else result


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


class TestOrientation:
    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_exif_is_applied(self, picture, orientation, format):
        data = encode(picture, format, exif=exif(orientation))
        expected = upright(picture, *ORIENTATIONS[orientation])
        np.testing.assert_array_equal(read_image(data), expected)
        with Image.open(io.BytesIO(data)) as image:  # as it is when the caller has opened the file
            np.testing.assert_array_equal(read_image(image), expected)

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_of_a_jpeg_decoded_small(self, photo, orientation):
        data = encode(photo, "JPEG", quality=95, exif=exif(orientation))
        expected = upright(photo[2::4, 2::4], *ORIENTATIONS[orientation])
        np.testing.assert_allclose(read_image(data, at_least=50), expected.astype(float), atol=8)

    @pytest.mark.parametrize("orientation", [0, 9, 77])
    def test_an_unknown_orientation_is_ignored(self, picture, orientation):
        data = encode(picture, "PNG", exif=exif(orientation))
        np.testing.assert_array_equal(read_image(data), picture)
        assert picture_size(data) == (24, 16)

    def test_corrupt_exif_does_not_cost_the_picture(self, photo):
        tags = exif(6).tobytes()
        data = encode(photo, "JPEG", exif=tags)
        start = data.index(tags) + len(b"Exif\0\0")
        rng = np.random.default_rng(0)
        for _ in range(200):
            corrupt = bytearray(data)
            for at in rng.integers(start, start + len(tags) - 6, size=4):
                corrupt[at] = rng.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow says what is wrong with the EXIF
                assert read_image(bytes(corrupt), at_least=20).shape in {(50, 75, 3), (75, 50, 3)}

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_exif_that_is_none_at_all(self, photo, format):
        assert read_image(encode(photo, format, exif=b"Exif\0\0rubbish")).shape == (400, 600, 3)

    def test_an_orientation_that_is_no_number(self, photo):
        short, ascii = b"\x01\x12\x00\x03", b"\x01\x12\x00\x02"  # tag 0x0112 and its type
        tags = exif(6).tobytes()
        assert short in tags
        data = encode(photo, "JPEG", exif=tags.replace(short, ascii))
        assert read_image(data).shape == (400, 600, 3)


class TestUnreadable:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", AVIF])
    @pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9])
    def test_truncated(self, photo, format, part, tmp_path):
        data = encode(photo, format)
        path = tmp_path / "cut.jpg"
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(UnreadableImage) as error:
            read_image(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
        with pytest.raises(UnreadableImage):
            read_image(path, at_least=10)

    def test_a_truncated_photo_is_said_to_be_truncated(self, photo, tmp_path):
        path = tmp_path / "cut.jpg"
        path.write_bytes(encode(photo, "JPEG")[:-500])
        with pytest.raises(UnreadableImage, match=r"cut\.jpg: truncated$"):
            read_image(path)
        with Image.open(path) as image, pytest.raises(UnreadableImage, match=r"cut\.jpg: truncated$"):
            read_image(image)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty file"),
            (b"Dear all,", "not a picture"),
            (b"Python is not a PPM", "not a picture"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
        ],
    )
    def test_what_is_no_picture(self, content, reason, tmp_path):
        path = tmp_path / "photo.jpg"
        path.write_bytes(content)
        with pytest.raises(UnreadableImage, match=rf"photo\.jpg: {reason}"):
            read_image(path)
        with pytest.raises(UnreadableImage, match=f"image: {reason}"):
            read_image(content)
        with pytest.raises(UnreadableImage, match=reason):
            read_image(io.BytesIO(content))

    def test_a_real_eps_is_not_handed_to_ghostscript(self, picture):
        with pytest.raises(UnreadableImage, match="not a picture"):
            read_image(encode(picture, "EPS"))

    def test_noise_in_the_header_raises_nothing_else(self, photo):
        rng = np.random.default_rng(0)
        for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM"):
            data = encode(photo[::8, ::8], format)
            for _ in range(30):
                noisy = bytearray(data)
                for at in rng.integers(0, 100, size=3):
                    noisy[at] = rng.integers(256)
                with contextlib.suppress(UnreadableImage):
                    assert read_image(bytes(noisy)).shape[2] == 3


class TestSize:
    def test_a_bomb_is_refused_from_its_header(self, monkeypatch):
        bomb = png(20_000, 20_000)
        monkeypatch.setattr(ImageFile.ImageFile, "load", no_decoding)
        with pytest.raises(UnreadableImage, match=r"20000 x 20000 pixels, the limit is 250 megapixels$"):
            read_image(bomb)
        with pytest.raises(UnreadableImage, match="20000 x 20000"):
            read_image(bomb, at_least=10)

    def test_a_200_megapixel_photo_is_read(self):
        # A 12 MB JPEG of one grey; at_least keeps it to 1/64 of its pixels.
        data = encode(Image.new("L", (16_320, 12_240), 128), "JPEG")
        assert read_image(data, at_least=224).shape == (1530, 2040, 3)

    def test_a_large_tiff_is_read_by_our_limit_not_by_pillows(self, monkeypatch):
        data = encode(Image.new("1", (100, 80), 1), "TIFF", compression="group4")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        assert read_image(data).shape == (80, 100, 3)

    def test_pillows_own_limit_stays(self):
        before = Image.MAX_IMAGE_PIXELS
        with pytest.raises(UnreadableImage):
            read_image(png(20_000, 20_000))
        assert before == Image.MAX_IMAGE_PIXELS

    @pytest.mark.parametrize(("at_least", "expected"), [(None, 400), (25, 50), (26, 100), (100, 200), (300, 400)])
    def test_at_least(self, photo, at_least, expected):
        assert read_image(encode(photo, "JPEG"), at_least=at_least).shape == (expected, expected * 3 // 2, 3)

    def test_at_least_leaves_a_png_whole(self, photo):
        assert read_image(encode(photo, "PNG"), at_least=10).shape == (400, 600, 3)


def test_threads(photo):
    """Many threads, all formats, a bomb among them: the results of one thread."""
    files = [encode(photo, format) for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")]
    files.append(png(20_000, 20_000))

    def outcome(data):
        try:
            return to_square(read_image(data, at_least=32), 32).tobytes()
        except UnreadableImage as error:
            return str(error)

    alone = [outcome(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, files * 10)) == alone * 10


class TestToSquare:
    @pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
    @pytest.mark.parametrize("shape", [(400, 600), (600, 400), (300, 300), (1, 900), (7, 5)])
    def test_shape_and_type(self, fit, shape):
        result = to_square(np.full((*shape, 3), (10, 20, 30), np.uint8), 48, fit)
        assert result.shape == (48, 48, 3)
        assert result.dtype == np.uint8
        assert result.flags.writeable
        assert (result == (10, 20, 30)).all(axis=2)[22:26].any()

    def test_squash_keeps_the_corners(self, photo):
        result = to_square(photo, 20, "squash").astype(float)
        means = photo.reshape(20, 20, 20, 30, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(result, means, atol=6)

    @pytest.mark.parametrize("tall", [False, True])
    def test_crop_takes_the_centre(self, tall):
        wide = np.zeros((100, 300, 3), np.uint8)
        wide[:, 90:210] = 255
        assert (to_square(wide.swapaxes(0, 1) if tall else wide, 10, "crop") == 255).all()

    @pytest.mark.parametrize("tall", [False, True])
    def test_pad_keeps_everything_on_white(self, tall):
        image = np.zeros((300, 100, 3) if tall else (100, 300, 3), np.uint8)
        result = to_square(image, 30, "pad").swapaxes(0, 1) if tall else to_square(image, 30, "pad")
        assert (result[:10] == 255).all()
        assert (result[10:20] == 0).all()
        assert (result[20:] == 255).all()

    def test_antialiased(self):
        # A one-pixel checkerboard is grey from afar; sampling it would give black or white.
        board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
        result = to_square(read_image(board), 32)
        np.testing.assert_allclose(result, np.full((32, 32, 3), 127.5), atol=6)

    @pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
    @pytest.mark.parametrize(("shape", "size"), [((261, 348), 256), ((105, 105), 28), ((20, 31), 64), ((90, 40), 17)])
    def test_as_pillow_to_within_one(self, shape, size, fit):
        noise = np.random.default_rng(0).integers(256, size=(*shape, 3)).astype(np.uint8)
        height, width = shape
        if fit == "pad":
            scale = size / max(shape)
            small = Image.fromarray(noise).resize((round(width * scale), round(height * scale)), 2)
            square = Image.new("RGB", (size, size), "white")
            square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
        else:
            side = min(shape)
            left, top = ((width - side) // 2, (height - side) // 2) if fit == "crop" else (0, 0)
            box = (left, top, left + side, top + side) if fit == "crop" else (0, 0, width, height)
            square = Image.fromarray(noise).crop(box).resize((size, size), 2)
        difference = to_square(noise, size, fit).astype(int) - np.asarray(square)
        assert np.abs(difference).max() <= 1

    @pytest.mark.parametrize(
        ("shape", "size", "fit"),
        [((9, 9), 8, "crop"), ((9, 9, 4), 8, "crop"), ((9, 9, 3), 0, "crop"), ((9, 9, 3), 8, "no")],
    )
    def test_arguments(self, shape, size, fit):
        with pytest.raises(ValueError, match=r"expected \(H, W, 3\), size >= 1 and fit in"):
            to_square(np.zeros(shape, np.uint8), size, fit)
