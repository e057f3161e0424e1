from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def make_folder(tmp_path):
    """Write pictures that a network can learn to tell apart: each class has its own colour and stripe width."""

    def make(sizes, side=16, name="pictures"):
        root = tmp_path / name
        random = np.random.default_rng(0)
        for c, size in enumerate(sizes):
            folder = root / f"class-{c:02d}"
            folder.mkdir(parents=True)
            colour = np.random.default_rng(c).integers(90, 166, 3)
            for i in range(size):
                stripes = 30 * ((np.arange(side) // (c % 4 + 1) + i) % 2)[None, :, None]
                noise = random.integers(-90, 90, (side, side, 3))
                Image.fromarray((colour + stripes + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
        return root

    return make


@pytest.fixture
def shared():
    def find(name):
        folder = SHARED / name
        if not folder.is_dir():
            pytest.skip(f"needs the pictures of {name} in {folder}")
        return folder

    return find
