import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nearkin.data.glyphs import CHARACTERS, class_name, draw_glyph, draw_ink, load_fonts, random_pose, render_glyphs


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


def shape(ink, angle=0):
    """Ink turned, at one size whatever its own, as a unit vector: a dot product is a correlation."""
    ink = ink.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    ink = ink.crop(ink.getbbox())
    scale = 16 / max(ink.size)
    ink = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.BOX)
    square = Image.new("L", (20, 20))
    square.paste(ink, ((20 - ink.width) // 2, (20 - ink.height) // 2))
    pixels = np.asarray(square, dtype=float).ravel()
    return (pixels - pixels.mean()) / np.linalg.norm(pixels - pixels.mean())


class TestCharacters:
    def test_sorted_and_unique(self):
        assert all(a < b for a, b in pairwise(CHARACTERS))
        assert len(CHARACTERS) == 300

    def test_each_is_in_four_fonts_or_more_and_none_is_an_empty_box(self):
        fonts = load_fonts()
        for character in CHARACTERS:
            carriers = [font for font, charmap in fonts if ord(character) in charmap]
            assert len(carriers) >= 4, unicodedata.name(character)
            for font in carriers:
                box = draw_ink("\U000effff", font)  # a code point of no font
                ink = draw_ink(character, font)
                assert ink.getbbox() is not None
                assert ink.size != box.size or ink.tobytes() != box.tobytes(), unicodedata.name(character)

    def test_no_two_look_alike_at_any_turn_of_the_pose(self):
        font, charmap = load_fonts()[0]
        drawn = [draw_ink(character, font) for character in CHARACTERS if ord(character) in charmap]
        assert len(drawn) >= 290
        upright = np.stack([shape(ink) for ink in drawn])
        for angle in (-25, 0, 25):
            alike = upright @ np.stack([shape(ink, angle) for ink in drawn]).T
            np.fill_diagonal(alike, 0)
            a, b = np.unravel_index(alike.argmax(), alike.shape)
            assert alike.max() < 0.93, f"{CHARACTERS[a]} and {CHARACTERS[b]} turned by {angle}"

    def test_the_check_above_finds_letters_that_look_alike(self):
        font, _ = load_fonts()[0]
        for one, other in ("AΑ", "xх", "pр", "↶↶"):
            assert shape(draw_ink(one, font)) @ shape(draw_ink(other, font)) > 0.93

    def test_class_names_are_safe_and_sort_by_code_point(self):
        names = [class_name(character) for character in CHARACTERS]
        assert names[14] == "u0041-LATIN-CAPITAL-LETTER-A"
        assert names == sorted(names)
        assert all(name.replace("-", "").isalnum() and name.isascii() for name in names)


class TestRenderGlyphs:
    def test_layout_and_size(self, tmp_path):
        render_glyphs(tmp_path / "a" / "glyphs", characters=7, images=3, size=24)
        files = sorted((tmp_path / "a" / "glyphs").glob("*/*"))
        assert len({file.parent for file in files}) == 7
        assert [file.name for file in files] == ["000.png", "001.png", "002.png"] * 7
        for file in files:
            with Image.open(file) as image:
                assert (image.mode, image.size) == ("RGB", (24, 24))
        assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "glyphs"]  # no scratch left

    def test_a_few_characters_come_from_all_scripts(self, tmp_path):
        render_glyphs(tmp_path / "glyphs", characters=30, images=1, size=16)
        names = {path.name.split("-")[1] for path in (tmp_path / "glyphs").iterdir()}
        assert {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN"} < names

    def test_same_seed_same_bytes_other_seed_other_bytes(self, tmp_path):
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            render_glyphs(tmp_path / name, characters=5, images=4, size=32, seed=seed)
        a, b, c = (contents(tmp_path / name) for name in "abc")
        assert a == b
        assert a.keys() == c.keys()
        assert not any(a[path] == c[path] for path in a)
        assert len(set(a.values())) == len(a)

    def test_an_image_does_not_depend_on_the_others(self, tmp_path):
        render_glyphs(tmp_path / "few", characters=3, images=2, size=32)
        render_glyphs(tmp_path / "many", characters=6, images=5, size=32)
        assert contents(tmp_path / "few").items() < contents(tmp_path / "many").items()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"characters": 301}, r"characters must be in \[1, 300\], got 301"),
            ({"characters": 0}, r"got 0"),
            ({"images": 0}, r"images and size must be at least 1, got 0 and 40"),
            ({"size": 0}, r"got 20 and 0"),
        ],
    )
    def test_arguments(self, wrong, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            render_glyphs(tmp_path / "glyphs", **wrong)
        assert not any(tmp_path.iterdir())

    def test_a_folder_in_use_is_left_alone(self, tmp_path):
        (tmp_path / "mine.txt").write_text("precious")
        with pytest.raises(FileExistsError, match="is not empty"):
            render_glyphs(tmp_path, characters=1, images=1)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_an_empty_folder_is_filled(self, tmp_path):
        root = tmp_path / "empty"
        root.mkdir()
        render_glyphs(root, characters=1, images=1)
        assert len(contents(root)) == 1

    def test_half_a_data_set_never_appears(self, tmp_path, monkeypatch):
        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(ImageDraw, "Draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render_glyphs(tmp_path / "glyphs", characters=2, images=1)
        assert not any(tmp_path.iterdir())


class TestDrawGlyph:
    def test_ink_stands_out_from_paper(self):
        for number in range(40):
            image = draw_glyph("B", 40, np.random.default_rng(number)).convert("L")
            dark, light = np.percentile(np.asarray(image, dtype=float), [3, 97])
            assert light - dark > 60

    def test_most_ink_is_inside(self):
        """A square's four sides stay in the picture, however it is turned, tilted and shifted."""
        for number in range(40):
            ink = np.asarray(draw_glyph("▲", 64, np.random.default_rng(number)).convert("L"), dtype=float)
            border = np.median([*ink[0], *ink[-1], *ink[:, 0], *ink[:, -1]])
            far = np.abs(ink - border) > 60
            inside = far[2:-2, 2:-2].sum()
            assert inside > 0.9 * far.sum()
            assert 0.05 < far.mean() < 0.7

    def test_images_of_a_class_vary(self):
        images = [np.asarray(draw_glyph("R", 32, np.random.default_rng(n)), dtype=float) for n in range(10)]
        differences = [np.abs(a - b).mean() for a, b in pairwise(images)]
        assert min(differences) > 5

    def test_light_on_dark_now_and_then(self):
        corners = [np.asarray(draw_glyph("o", 24, np.random.default_rng(n)))[0, 0].mean() for n in range(60)]
        assert 0 < sum(corner < 100 for corner in corners) < 20


@pytest.mark.parametrize("ink", [(40, 40), (20, 60), (60, 20)])
def test_pose_keeps_the_centre_near_and_the_size(ink):
    for number in range(50):
        coefficients = random_pose(ink, 80, np.random.default_rng(number))
        to_square = np.linalg.inv(np.array([*coefficients, 1]).reshape(3, 3))
        width, height = ink
        corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]])
        x, y, w = to_square @ np.array([*corners, [width / 2, height / 2, 1]]).T
        points = np.stack([x / w, y / w], axis=1)
        assert np.abs(points[4] - 40).max() <= 0.06 * 40
        # The longer side comes to 62-85% of the square, give or take stretch, slant and tilt.
        sides = np.linalg.norm(points[:4] - np.roll(points[:4], -1, axis=0), axis=1)
        assert 0.4 * 80 < sides.max() < 1.25 * 80
