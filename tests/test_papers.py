"""The papers' experiments and their methods on small pictures: every cell has one, every one of them takes a step."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from nearkin import config
from nearkin.papers import EXPERIMENTS, Cell, figures, published, small
from nearkin.papers.__main__ import write
from nearkin.train import train

CONFIGS = Path(__file__).parents[1] / "configs"


def test_every_row_of_every_table_belongs_to_one_experiment():
    cells = [cell for each in EXPERIMENTS for cell in (*each.cells, *(cell for cell, _ in each.views))]
    assert len(cells) == len(set(cells))
    assert set(cells) == published().keys()
    assert len({each.file for each in EXPERIMENTS}) == len(EXPERIMENTS)


def test_the_figures_are_fractions_under_our_names():
    scores = published()[Cell("AL", "1", "cub200", "NL&AL")]
    expected = {"nmi": 0.611, "f1": 0.294, "recall@1": 0.547, "recall@2": 0.663, "recall@4": 0.76, "recall@8": 0.839}
    assert scores == pytest.approx(expected)
    assert published()[Cell("DAM", "8", "cub200", "N-pair")] == {"iterations_per_sec": 2.2, "training_time_hours": 5.1}
    assert "recall@10" not in published()[Cell("RLL", "2", "sop", "Proxy NCA")]  # not reported
    assert figures("sop", "rll_ranked_list")["recall@1"] == pytest.approx(0.798)
    assert figures("sop", "rll_ranked_list_margin_0.2")["recall@1"] == pytest.approx(0.79)
    assert figures("omniglot", "ranked_list") is None


def test_the_files_are_what_the_table_gives(tmp_path):
    write(tmp_path)
    written = {file.relative_to(tmp_path): file.read_text() for file in tmp_path.rglob("*.yaml")}
    folders = [CONFIGS / name for name in ("cub200", "cars196", "sop", "omniglot", "grocery")]
    there = {file.relative_to(CONFIGS): file for folder in folders for file in folder.iterdir()}
    assert written.keys() == there.keys(), "run: python -m nearkin.papers configs"
    for name, text in written.items():
        assert there[name].read_text() == text, "run: python -m nearkin.papers configs"


def test_every_experiment_has_a_folder_of_its_own_which_its_views_name():
    runs = set()
    for each in EXPERIMENTS:
        text = (CONFIGS / each.file).read_text()
        out = yaml.safe_load(text)["out"]
        assert out == f"runs/{each.file.removesuffix('.yaml')}"
        assert text.count(f", by: nearkin evaluate {out} --levels ") == len(each.views)
        runs.add(out)
    assert len(runs) == len(EXPERIMENTS)


@pytest.mark.parametrize("pictures", small.SETS, ids=lambda each: each.name)
def test_methods_on_small_pictures_differ_in_their_loss_and_batches_alone(pictures):
    trees = [yaml.safe_load((CONFIGS / name).read_text()) for name, _ in small.files() if pictures.name in name]
    batches = [batch for _, _, (_, batch), _ in small.methods(pictures)]
    assert len(trees) == len(batches) == 18
    own = ("loss", "sampler", "steps", "warmup")
    assert all({k: v for k, v in tree.items() if k not in own} == pictures.settings for tree in trees)
    for tree, batch in zip(trees, batches, strict=True):
        assert tree["steps"] * batch == pytest.approx(pictures.seen, abs=batch / 2)  # to half a step


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """A manifest of small pictures of 250 classes to train on and 3 to test on, in place of the papers' data sets.

    Twenty of the classes are as large as DAMLRRM's neat stream wants them.
    """
    root = tmp_path_factory.mktemp("stub")
    rows = ["path,label,split"]
    for c in range(253):
        for i in range(5 if c < 20 else 2):
            pixels = np.random.default_rng((c, i)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{c:03d}-{i}.png")
            rows.append(f"{c:03d}-{i}.png,class {c:03d},{'train' if c < 250 else 'test'}")
    (root / "list.csv").write_text("\n".join(rows))
    return root / "list.csv"


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda each: each.file)
def test_every_experiment_takes_a_step(experiment, stub, tmp_path):
    small = ["--image.size", "32", "--image.resize", "32", "--backbone.weights", "none", "--steps", "1"]
    file = str(CONFIGS / experiment.file)
    run = train(**config.read([file, "--data", str(stub), "--out", str(tmp_path / "run"), *small]).build())
    (row,) = run.history()
    assert row["step"] == 1
    assert np.isfinite(row["loss"])
    assert 0 <= run.result()["trained"][f"recall@{experiment.settings['protocol']['ks'][0]}"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in small.files()])
def test_every_method_on_small_pictures_takes_a_step(name, stub, tmp_path):
    arguments = [str(CONFIGS / name), "--data", str(stub), "--out", str(tmp_path / "run"), "--image.size", "28"]
    run = train(**config.read([*arguments, "--image.resize", "28", "--steps", "1", "--warmup", "0"]).build())
    assert np.isfinite(run.history()[0]["loss"])
