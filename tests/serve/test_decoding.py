"""Processes that decode pictures: the same pixels as here, and what becomes of those that a file breaks."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hostile import JPEG, NOISE, jpeg_of_scans, tiff_of_tile
from PIL import ExifTags, Image
from support import encoded, wait_for

from nearkin.data import Preprocessing
from nearkin.data.images import UnreadableImage, read_image
from nearkin.errors import InputError
from nearkin.serve.decoding import ROOM, Decoders, webp_pixels

IMAGE = Preprocessing(32, fit="crop")
SLOW = {
    "a JPEG of many scans": jpeg_of_scans(1_000, 20_000),
    "a PPM of a long comment": b"P2 #" + b"a" * 15_000_000 + b"\n1 1 255\n1 ",
    "fill in a JPEG": JPEG[:2] + b"\xff" * 15_000_000 + JPEG[2:],
}


@pytest.fixture
def hasty(context):
    """Decoders without patience."""
    decoders = Decoders(context, seconds=1)
    yield decoders
    decoders.close()


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("crop", [None, (10, 20, 50, 60)])
def test_pixels_are_those_that_this_process_would_see(decoders, tmp_path, fit, crop):
    image = Preprocessing(24, resize=32, fit=fit)
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(NOISE, kind)
        (tmp_path / kind).write_bytes(content)
        if crop is None:
            expected = image.decode(content)
        else:
            x, y, width, height = crop
            expected = image.decode(read_image(content)[y : y + height, x : x + width])
        for source in (content, tmp_path / kind):
            file = decoders.look(source)
            assert file == (source, NOISE.width, NOISE.height)
            np.testing.assert_array_equal(decoders.square(file, image, crop), expected)


def test_pictures_are_upright(decoders):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = decoders.look(encoded(NOISE, "JPEG", exif=exif))
    assert file[1:] == (NOISE.height, NOISE.width)


def test_errors_are_those_of_this_process(decoders, tmp_path):
    with pytest.raises(UnreadableImage, match="not a picture"):
        decoders.look(b"no picture")
    with pytest.raises(FileNotFoundError):
        decoders.look(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="expected a crop"):
        decoders.square(decoders.look(JPEG), IMAGE, (0, 0, 999, 1))


@pytest.mark.parametrize("what", SLOW)
def test_what_takes_too_long_is_given_up(hasty, what):
    start = time.process_time()
    with pytest.raises(UnreadableImage, match="image: takes too long to decode"):
        hasty.square(hasty.look(SLOW[what]), IMAGE)
    assert time.process_time() - start < 1, "it is not this process that was busy"
    assert hasty.square(hasty.look(JPEG), IMAGE).shape == (32, 32, 3)


def test_time_is_for_each_picture(hasty):
    """A decoder that has worked for longer than one picture may take is not at its end."""
    file = hasty.look(jpeg_of_scans(1_000, 200))
    for _ in range(10):
        hasty.square(file, IMAGE)


def peak(decoder):
    """Bytes of memory that a process has held at most."""
    lines = Path(f"/proc/{decoder.process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def test_what_asks_for_too_much_memory_is_given_up(context):
    decoders = Decoders(context)
    file = decoders.look(tiff_of_tile(20_000))
    before = peak(decoders.idle.queue[-1])
    with pytest.raises(UnreadableImage):
        decoders.square(file, IMAGE)
    assert peak(decoders.idle.queue[-1]) - before < ROOM < 20_000**2
    assert decoders.look(JPEG)[1:] == NOISE.size
    decoders.close()


def test_a_decoder_that_breaks_takes_nothing_with_it(context):
    decoders = Decoders(context, seconds=60)
    decoders.look(JPEG)
    first = decoders.idle.get()
    decoders.idle.put(first)
    said = []

    def decode():
        try:
            decoders.look(SLOW["a PPM of a long comment"])
        except UnreadableImage as error:
            said.append(str(error))

    asking = threading.Thread(target=decode)
    asking.start()
    wait_for(lambda: first not in decoders.idle.queue)
    time.sleep(0.1)
    os.kill(first.process.pid, signal.SIGSEGV)
    asking.join()
    assert said == ["image: breaks its decoder"]
    assert decoders.look(JPEG)[1:] == NOISE.size
    second = decoders.idle.queue[-1]
    os.kill(second.process.pid, signal.SIGKILL)  # while it has nothing to do: no picture is to blame
    second.process.join()
    assert decoders.look(JPEG)[1:] == NOISE.size
    decoders.close()


def test_whoever_comes_after_the_end_does_not_wait_for_ever(context):
    decoders = Decoders(context)
    for _ in range(2):
        decoders.look(JPEG)
        ended = decoders.idle.queue[-1].process
        decoders.close()
        assert ended.exitcode == 0


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}, {"save_all": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 500), (120, 90)])
def test_the_size_of_a_webp_is_read_before_it_is_opened(tmp_path, options, mode, size):
    picture = NOISE.convert(mode).resize(size)
    if "save_all" in options:
        options = {**options, "append_images": [picture.rotate(180)]}
    content = encoded(picture, "WEBP", **options)
    file = tmp_path / "picture.webp"
    file.write_bytes(content)
    assert webp_pixels(content) == webp_pixels(file) == size[0] * size[1]


def test_others_need_no_room_to_be_looked_at():
    for content in (b"", JPEG, encoded(NOISE, "PNG"), b"RIFF", b"RIFF\0\0\0\0WAVE" + bytes(100)):
        assert webp_pixels(content) == 0


def large(mode):
    """As many pixels as an upload may have, smooth enough to be small as a file."""
    ramp = np.add.outer(np.arange(6_000) // 40, np.arange(8_333) // 40)
    deep = {"F": np.float32, "I": np.int32, "I;16": np.uint16}
    if mode in deep:
        return Image.fromarray((150 * ramp).astype(deep[mode]))
    grey = Image.fromarray(ramp.astype(np.uint8))
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
    return Image.merge(mode, [grey] * bands[mode]) if mode in bands else Image.merge("RGB", [grey] * 3).convert(mode)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        *(("PNG", mode, {"compress_level": 1}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("TIFF", mode, {"compression": "tiff_deflate"}) for mode in ("L", "RGB", "RGBA", "CMYK", "LAB", "F", "I")),
        *(("JPEG", mode, {"progressive": True}) for mode in ("L", "RGB", "CMYK")),
        *(("WEBP", mode, {"quality": 20, "method": 0}) for mode in ("RGB", "RGBA")),
        *(("AVIF", mode, {"quality": 20, "speed": 10}) for mode in ("RGB", "RGBA")),
        ("GIF", "P", {}),
    ],
)
def test_the_largest_upload_of_every_kind_has_room(context, kind, mode, options):
    decoders = Decoders(context)
    picture = large(mode)
    if kind == "AVIF":  # of no more pixels on one side
        picture = picture.resize((8_000, 6_000))
    content = encoded(picture, kind, **options)
    side = min(picture.size)
    square = decoders.square(decoders.look(content), Preprocessing(32), (0, 0, side, side))  # no JPEG's short way
    assert square.std() > 10
    decoders.close()
