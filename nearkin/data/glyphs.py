"""Glyphs: the built-in data set, 300 characters drawn from the fonts that matplotlib carries.

One class per character. Each image is another font, weight, pose, pair of colours and degree of wear, so pixels
alone hardly tell which images show the same character. Letters come first in code-point order and signs last:
trained on the first half of the classes and tested on the rest, a model meets shapes of a kind it has never seen.

Made to show learning in a minute: on the second half an untrained small network has a recall at 1 of 5% to 30%,
depending on how it pools, and 300 batches of 128 images take it to about 90%.
"""

import tempfile
import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# Picked by hand so that no two look alike once turned, slanted, stretched and drawn bold: one of 8 and B, of O, 0,
# o, the Greek and the Cyrillic one; no accents. At least four of the fonts below have each.
CHARACTERS = (
    "#$%&12345679?@ABCDEGHJKLMNOPQRTUVWXYZabdefhkmnqrsty£¤§Æßðþ"
    "ΔΘΞΣΦΨΩαβδεζηιλμξρςσφω"
    "ЂЉЊЋДЖЛЧШЩЪЫЭЮЯицьђ"
    "ԳԴԶԷԸԹԺԻԽԾԿՀՃՄՆՇՊՌՎՐՒՔՖբդեըթխծկմնչպջվ"
    "აბდეზთმოპრსტუფქღცჭჯჰჲჴჵჶ"
    "℞℮"
    "↜↢↣↯↱↳↴↶↻⇅⇇⇈⇊⇔⇫⇱⇲⇵"
    "∃∊∍∓√∝∞∫∴∵∷∹≎≗≟≤≥≪≫≽⊂⊇⊏⊐⊔⊢⊰⊱⊴⋈⋌⋓⋜"
    "⌂⌘"
    "▱▲▷▽◁◐◑◒◓◠◡◬◰◲◵◺◿"
    "☂☃☄☆☇☈☉☋☘☜☝☞☟☠☡☼☽☿♃♄♅♈♉♊♌♎♏♑♔♕♖♗♘♡♢♤♧♨♩♪♫♬♭♮♲♾⚐⚒⚓⚔⚖⚗⚘⚙⚚⚜"
    "✂✆✈✍✓✿❞❦➔➢➩➲"
)

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
)
PERSPECTIVE, BILINEAR = Image.Transform.PERSPECTIVE, Image.Resampling.BILINEAR
FONT_SIZE = 48  # pixels; what is drawn is then warped to the image's size


def render_glyphs(
    root: Path, *, characters: int = len(CHARACTERS), images: int = 20, size: int = 40, seed: int = 0
) -> None:
    """Write root/<class>/<number>.png, such as root/u0041-LATIN-CAPITAL-LETTER-A/007.png.

    The same arguments give the same bytes (with the same Pillow and NumPy); an image does not depend on how many
    others there are. The folder appears once it is complete.

    Args:
        root: Folder to make; its parents are made too.
        characters: Number of classes; fewer than all are spread evenly over the scripts.
        images: Images per class.
        size: Side of the square RGB images in pixels.
        seed: 0 or more; another seed gives other images of the same classes.

    Raises:
        ValueError: More characters than there are, or a number below 1.
        FileExistsError: The folder exists and is not empty.
    """
    if not 1 <= characters <= len(CHARACTERS):
        raise ValueError(f"characters must be in [1, {len(CHARACTERS)}], got {characters}")
    if images < 1 or size < 1:
        raise ValueError(f"images and size must be at least 1, got {images} and {size}")
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty")

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as scratch:
        whole = Path(scratch, root.name)
        for i in range(characters):
            character = CHARACTERS[i * len(CHARACTERS) // characters]
            folder = whole / class_name(character)
            folder.mkdir(parents=True)
            for number in range(images):
                rng = np.random.default_rng((seed, ord(character), number))
                draw_glyph(character, size, rng).save(folder / f"{number:03d}.png", compress_level=1)
        whole.rename(root)


def class_name(character: str) -> str:
    """Name a class so that sorting by name sorts by code point: "u0041-LATIN-CAPITAL-LETTER-A"."""
    return f"u{ord(character):04x}-{unicodedata.name(character).replace(' ', '-')}"


@cache
def load_fonts() -> list[tuple[ImageFont.FreeTypeFont, frozenset[int]]]:
    """Load every font, with the code points it has; it would draw others as empty boxes."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    paths = [str(folder / f"{name}.ttf") for name in FONTS]
    # Basic layout: the other engine, where Pillow has it, may draw other pixels.
    basic = ImageFont.Layout.BASIC
    return [
        (ImageFont.truetype(path, FONT_SIZE, layout_engine=basic), frozenset(FT2Font(path).get_charmap()))
        for path in paths
    ]


def draw_glyph(character: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw a character in a random font, weight, pose, pair of colours and wear as an RGB image (size, size)."""
    fonts = [font for font, charmap in load_fonts() if ord(character) in charmap]
    ink = draw_ink(character, fonts[rng.integers(len(fonts))], stroke=int(rng.integers(0, 3)))

    # Warped at twice the size and then halved, which antialiases.
    double = 2 * size
    mask = ink.transform((double, double), PERSPECTIVE, random_pose(ink.size, double, rng), BILINEAR)
    pen = ImageDraw.Draw(mask)
    for _ in range(rng.integers(0, 3)):  # scratches
        pen.line(rng.uniform(0, double, 4).tolist(), fill=int(rng.uniform(100, 255)), width=2)
    mask = mask.reduce(2).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))

    coverage = np.asarray(mask, dtype=np.float64)[..., None] / 255  # (size, size, 1)
    paper, colour = random_colours(rng)
    y, x = np.mgrid[:size, :size] / size - 0.5
    slope = rng.uniform(-25, 25, 2)
    light = slope[0] * y + slope[1] * x + rng.normal(0, rng.uniform(0, 12), (size, size))
    picture = paper + coverage * (colour - paper) + light[..., None]  # (size, size, 3)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def draw_ink(character: str, font: ImageFont.FreeTypeFont, stroke: int = 0) -> Image.Image:
    """Draw a character as coverage 0..255 (mode L), cropped to its ink, which grows by `stroke` pixels all round."""
    canvas = Image.new("L", (3 * FONT_SIZE, 3 * FONT_SIZE))
    middle = canvas.width // 2, canvas.height // 2
    ImageDraw.Draw(canvas).text(middle, character, fill=255, font=font, anchor="mm", stroke_width=stroke)
    return canvas.crop(canvas.getbbox())


def random_pose(ink: tuple[int, int], size: int, rng: np.random.Generator) -> list[float]:
    """Turn, slant, stretch, tilt and shift ink (width, height) about the centre of a square of `size` pixels.

    Returns the eight coefficients of Image.transform, which map the square's pixels to the ink's.
    """
    angle = np.radians(rng.uniform(-25, 25))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1, rng.uniform(-0.22, 0.22)], [0, 1]])
    stretch = rng.uniform(0.62, 0.85) * np.diag(np.exp(rng.uniform(-0.1, 0.1, 2)))

    # From -1..1 over the ink's longer side to -1..1 over the square, in homogeneous coordinates.
    pose = np.eye(3)
    pose[:2, :2] = turn @ slant @ stretch
    pose[:2, 2] = rng.uniform(-0.06, 0.06, 2)  # shift
    pose[2, :2] = rng.uniform(-0.1, 0.1, 2)  # tilt

    half = max(ink) / 2
    to_ink = np.array([[half, 0, ink[0] / 2], [0, half, ink[1] / 2], [0, 0, 1]])
    from_square = np.array([[2 / size, 0, -1], [0, 2 / size, -1], [0, 0, 1]])
    matrix = to_ink @ np.linalg.inv(pose) @ from_square
    coefficients: list[float] = (matrix / matrix[2, 2]).ravel()[:8].tolist()
    return coefficients


def random_colours(rng: np.random.Generator) -> NDArray[np.float64]:
    """Colours (2, 3) of paper and ink, RGB in 0..255: dark on light, now and then light on dark."""
    dark = rng.uniform(0, 50)
    brightness = np.array([dark + rng.uniform(130, 160), dark])
    tint = rng.normal(0, 16, (2, 3))
    colours: NDArray[np.float64] = brightness[:, None] + tint - tint.mean(axis=1, keepdims=True)
    if rng.random() < 0.1:
        colours = colours[::-1]
    return colours.clip(0, 255)
