"""The demo: the ordinary path, on pictures that are made on the spot."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

from nearkin import config
from nearkin.data.glyphs import render_glyphs
from nearkin.errors import InputError
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

    Raises:
        InputError: `out` holds a run that is no demo.
    """
    if seed < 0:
        raise InputError(f"--seed must be at least 0, got {seed}")
    out = out.expanduser().resolve()
    pictures = out / f"glyphs-{seed}"
    run = RunFolder(out)
    earlier = run.exists() and Path(run.config().get("data", {}).get("root", "")).parent == out
    if run.occupied() and not earlier:
        raise InputError(f"{out} holds {', '.join(run.occupied())} of a run that is no demo; name another with --out")
    if not pictures.is_dir():
        print("rendering glyphs")
        render_glyphs(pictures, seed=seed)
    settings = config.read(["--data", str(pictures), "--out", str(out), "--seed", str(seed), *OPTIONS])
    return replace(settings, flags=frozenset({"--overwrite"})) if earlier else settings


def search_in_demo(run: RunFolder) -> str:
    """Index all pictures of the demo, search with one of a character never seen, and say what was found."""
    from nearkin.catalog import Catalog, index
    from nearkin.catalog.answers import as_text

    where, pictures = run.path / "catalog", Path(run.config()["data"]["root"])
    if where.exists():
        shutil.rmtree(where)  # an earlier demo's, by another model
    done = index(where, run.path, pictures)
    unseen = run.result()["protocol"]["scored"]
    query = sorted((pictures / unseen[len(unseen) // 2]).iterdir())[0]
    catalog = Catalog.open(where)
    answer = catalog.search(query, k=6)
    return "\n".join(
        [
            f"catalogue: {where} ({done})",
            "",
            f"nearkin search {shlex.quote(str(where))} {shlex.quote(str(query))} -k 6",
            as_text(answer, catalog.calibration),
            "",
            f"look through it: nearkin serve {shlex.quote(str(where))}",
        ]
    )
