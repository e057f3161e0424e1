"""The papers' experiments and their methods on small pictures: every cell has one, every one of them takes a step."""

import re
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


# As the specification has them. Paper, data set -> table, rows, backbone, rate, weight decay, steps, batch.
PRESETS = {
    ("AL", "cub200"): ("1", 6, "googlenet", 1e-5, 2e-4, 20_000, 128),
    ("AL", "cars196"): ("2", 6, "googlenet", 1e-4, 2e-4, 20_000, 128),
    ("AL", "sop"): ("3", 6, "googlenet", 1e-4, 2e-4, 20_000, 128),
    ("RLL", "cub200"): ("1", 7, "bn_inception", 1e-3, 1e-5, 10_000, 180),
    ("RLL", "cars196"): ("1", 7, "bn_inception", 1e-2, 1e-5, 10_000, 180),
    ("RLL", "sop"): ("2", 7, "bn_inception", 1e-2, 1e-5, 16_000, 180),
    ("DAM", "cub200"): ("1", 9, "googlenet", 1e-4, 2e-4, 40_000, 120),
    ("DAM", "cars196"): ("2", 9, "googlenet", 1e-4, 2e-4, 40_000, 120),
    ("DAM", "sop"): ("3", 9, "googlenet", 1e-4, 2e-4, 40_000, 120),
}
OTHER_BATCHES = {  # whole triplets; more pictures than the embedding has dimensions
    **{f"{name}/al_triplet_disjoint.yaml": 126 for name in ("cub200", "cars196", "sop")},
    "cub200/rll_spectral_clust.yaml": 18 * 70,
    "cars196/rll_spectral_clust.yaml": 18 * 70,
    "sop/rll_spectral_clust.yaml": 250 * 5,
}


def batch_of(sampler):
    size = sampler["init_args"]
    if "batch_size" in size:
        return size["batch_size"]
    return size["classes"] * size["images"] * (2 if sampler["class_path"] == "TwoStreamSampler" else 1)


@pytest.mark.parametrize(("paper", "data_set"), PRESETS)
def test_every_main_row_is_trained_as_the_specification_says(paper, data_set):
    table, rows, backbone, rate, decay, steps, batch = PRESETS[paper, data_set]
    first = [(each, each.cells[0]) for each in EXPERIMENTS]
    found = [each for each, cell in first if (cell.paper, cell.table, cell.data_set) == (paper, table, data_set)]
    assert len(found) == rows
    for each in found:
        tree = yaml.safe_load((CONFIGS / each.file).read_text())
        assert tree["data"] == data_set
        assert tree["backbone"] == {"name": backbone, "weights": "imagenet"}
        assert tree["embedding_size"] == 512
        sgd = {"lr": rate, "momentum": 0.9, "weight_decay": decay}
        assert tree["optimizer"] == {"class_path": "SGD", "init_args": sgd}, each.file
        assert tree["steps"] == steps, each.file
        assert (tree["image"], tree["augment"]) == ({"size": 227, "resize": 256}, {"mirror": True})
        assert tree["protocol"]["ks"] == ([1, 10, 100, 1000] if data_set == "sop" else [1, 2, 4, 8])
        assert batch_of(tree["sampler"]) == each.batch == OTHER_BATCHES.get(each.file, batch), each.file


OWN = {  # the arguments of the papers' own losses, the angle of the angular loss being another on SOP
    "al_angular": {"alpha": 45.0, "normalize": False},
    "al_npair_angular": {"alpha": 45.0, "weight": 2.0},
    "rll_ranked_list": {"alpha": 1.2, "margin": 0.4, "temperature": 10.0},
    "dam_damlrrm": {"alpha": 30.0, "beta": 0.5},
}


@pytest.mark.parametrize("data_set", ["cub200", "cars196", "sop"])
@pytest.mark.parametrize("name", OWN)
def test_the_papers_own_losses_have_their_arguments(name, data_set):
    angle = {"alpha": 36.0} if data_set == "sop" and name.startswith("al_") else {}
    tree = yaml.safe_load((CONFIGS / data_set / f"{name}.yaml").read_text())
    assert tree["loss"]["init_args"] == OWN[name] | angle


# Table, the row that it varies, where, the row's own value, the others as the table prints them.
ABLATIONS = [
    ("AL", "4", "cars196/al_npair_angular", "loss", "alpha", 45, ["36", "42", "48", "55"]),
    ("AL", "5", "sop/al_npair_angular", "loss", "alpha", 36, ["45"]),
    ("AL", "5", "sop/al_angular", "loss", "alpha", 36, ["45"]),
    ("RLL", "3", "sop/rll_ranked_list", "loss", "alpha", 1.2, ["1.4", "1.0"]),
    ("RLL", "4", "sop/rll_ranked_list", "loss", "margin", 0.4, ["0", "0.2", "0.6", "1.2"]),
    ("RLL", "5", "sop/rll_ranked_list", "loss", "temperature", 10, ["0", "5", "15", "20"]),
    ("RLL", "7", "sop/rll_ranked_list", "sampler", "classes", 60, ["40", "50", "55", "65"]),
    ("DAM", "4", "cub200/dam_damlrrm", "loss", "alpha", 30, ["26", "28", "32"]),
    ("DAM", "5", "cub200/dam_damlrrm", "loss", "beta", 0.5, ["0.1", "0.3", "0.7", "1.0"]),
]


@pytest.mark.parametrize(("paper", "table", "base", "part", "argument", "own", "others"), ABLATIONS)
def test_an_ablation_varies_one_value_of_its_row(paper, table, base, part, argument, own, others):
    by_file = {each.file: each for each in EXPERIMENTS}
    for value in others:
        file = f"{base}_{argument}_{float(value):g}.yaml"
        (cell,) = by_file[file].cells
        assert (cell.paper, cell.table) == (paper, table)
        assert value in re.findall(r"[\d.]+", cell.method)
        tree = yaml.safe_load((CONFIGS / file).read_text())
        assert tree[part]["init_args"][argument] == float(value)
        tree[part]["init_args"][argument] = own
        assert tree == yaml.safe_load((CONFIGS / f"{base}.yaml").read_text()) | {"out": tree["out"]}


def test_nothing_else_is_an_experiment():
    varied = sum(len(others) for *_, others in ABLATIONS)
    assert len(EXPERIMENTS) == sum(rows for _, rows, *_ in PRESETS.values()) + varied + 3  # DAMLRRM's variants


def test_a_file_whose_figures_differ_says_why():
    for each in EXPERIMENTS:
        first, *others = (published()[cell] for cell in each.cells)
        differ = any(scores[key] != first[key] for scores in others for key in scores.keys() & first.keys())
        assert ("stands for both, though their figures differ" in (CONFIGS / each.file).read_text()) == differ


@pytest.mark.parametrize("data_set", ["cub200", "cars196", "sop"])
def test_the_files_of_daml_say_where_they_leave_the_paper(data_set):
    assert "each on its own terms of the loss" in (CONFIGS / data_set / "dam_daml.yaml").read_text()


@pytest.mark.parametrize("pictures", small.SETS, ids=lambda each: each.name)
def test_methods_on_small_pictures_differ_in_their_loss_and_batches_alone(pictures):
    trees = [yaml.safe_load((CONFIGS / name).read_text()) for name, _ in small.files() if pictures.name in name]
    batches = [batch for _, _, (_, batch), _ in small.methods(pictures)]
    assert len(trees) == len(batches) == 18
    own = ("out", "loss", "sampler", "steps", "warmup")
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
