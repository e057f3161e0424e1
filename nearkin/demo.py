"""The demo: the ordinary path, on pictures that are made on the spot."""

from dataclasses import replace
from pathlib import Path

from nearkin import config
from nearkin.data.glyphs import render_glyphs
from nearkin.run_folder import RunFolder

# fmt: off
OPTIONS = [
    "--image.size", "32", "--image.resize", "40", "--pool", "max", "--embedding_size", "64",
    "--augment.mirror", "false", "--augment.rotate", "10", "--augment.zoom", "0.1",
    "--loss", "RankedListLoss", "--sampler.classes", "32", "--sampler.images", "4",
    "--optimizer", "AdamW", "--optimizer.lr", "0.003", "--schedule", "CosineAnnealingLR", "--warmup", "40",
    "--steps", "400",
]
# fmt: on


def settings(out: Path, seed: int) -> config.Settings:
    """Render the glyphs beside the run that is to come, and say how to train on them.

    An earlier demo in `out` is replaced: it can be made again from its seed.
    """
    out = out.expanduser().resolve()
    pictures = out / f"glyphs-{seed}"
    run = RunFolder(out)
    run.check_free(overwrite=True)
    if not pictures.is_dir():
        print("rendering glyphs")
        render_glyphs(pictures, seed=seed)
    settings = config.read(["--data", str(pictures), "--out", str(out), "--seed", str(seed), *OPTIONS])
    earlier = run.exists() and Path(run.config()["data"]["root"]).parent == out
    return replace(settings, flags=frozenset({"--overwrite"})) if earlier else settings
