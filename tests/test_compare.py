"""Comparisons of real, tiny runs. Kills and Ctrl-C are in test_compare_kill.py."""

import csv
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace

import pytest
import yaml
from support import write_pictures
from torch import nn

from nearkin import commands, config, tuning
from nearkin.compare import Request, compare, method_names, read_methods
from nearkin.data.source import PUBLISHED
from nearkin.errors import InputError
from nearkin.interruption import Terminated
from nearkin.losses import RankedListLoss
from nearkin.run_folder import RunFolder
from nearkin.train import train
from nearkin.worker import Worker

COMMON = {
    "image": {"size": 16},
    "embedding_size": 8,
    "sampler": {"class_path": "ClassBalancedSampler", "init_args": {"classes": 3, "images": 3}},
    "steps": 4,
}


class Troubled(nn.Module):
    """Ranked list loss that meets with trouble at its third batch: of a process, so of a run that is not resumed.

    Args:
        trouble: Which.
        unless: A file that spares the run the trouble.
        alpha: As in the ranked list loss.
    """

    normalize = True

    def __init__(self, trouble: str = "nan", unless: str = "", alpha: float = 1.2) -> None:
        super().__init__()
        self.loss, self.trouble, self.unless, self.batches = RankedListLoss(alpha), trouble, unless, 0

    def forward(self, embeddings, labels):
        self.batches += self.training  # not before the first step, when it is tried out
        value = self.loss(embeddings, labels)
        if self.training and self.batches == 3 and not (self.unless and os.path.exists(self.unless)):
            if self.trouble == "nan":
                return value * float("nan")
            if self.trouble == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("\nboom, said the loss\nand more")
        return value


@pytest.fixture
def configs(tmp_path):
    """Write configurations: `configs(one={"loss": "ContrastiveLoss"})` gives their paths."""

    def write(**methods):
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        for name, keys in methods.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(COMMON | keys))
        return [folder / f"{name}.yaml" for name in methods]

    return write


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", [6] * 16)


@pytest.fixture
def request_for(configs, pictures, tmp_path):
    def make(methods, *overrides, **options):
        given = ["--data", str(pictures), *map(str, overrides)]
        return Request(configs(**methods), given, tmp_path / "out", **{"seeds": 2} | options)

    return make


TWO = {"ranked": {"loss": "RankedListLoss"}, "contrast": {"loss": "ContrastiveLoss"}}


def trouble(**arguments):
    return {"loss": {"class_path": f"{__name__}.Troubled", "init_args": arguments}}


def state(folder):
    """Everything that a run left on the disk, and when."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def rows_of(file):
    return list(csv.DictReader(file.read_text().splitlines()))


@pytest.fixture(scope="module")
def once():
    """The folders of comparisons that several tests begin with, by name."""
    return {}


@pytest.fixture
def done(request_for, once, tmp_path_factory):
    """A finished comparison of TWO, in the folder that `request_for` names."""
    return finished("done", request_for(TWO), once, tmp_path_factory)


def finished(name, request, once, tmp_path_factory):
    if name not in once:
        once[name] = tmp_path_factory.mktemp(name) / "out"
        compare(replace(request, out=once[name]))
    shutil.copytree(once[name], request.out)
    return request


def test_a_comparison_is_complete_and_its_runs_are_ordinary_ones(done, tmp_path):
    found = compare(done)
    out = done.out
    assert {path.name for path in out.iterdir()} == {
        *("ranked", "contrast", "comparison.md", "comparison.csv", "comparison.html", "summary.csv"),
    }
    assert [run.title for run in found.runs] == [f"{name}, seed {seed}" for seed in range(2) for name in TWO]
    for seed in range(2):
        ours = RunFolder(out / "contrast" / f"seed-{seed}")
        by_hand = [str(ours.path / "config.yaml"), "--out", str(tmp_path / f"by hand {seed}")]
        again = train(**config.read(by_hand).build())
        assert (ours.path / "model.safetensors").read_bytes() == (again.path / "model.safetensors").read_bytes()
        assert ours.result()["trained"] == again.result()["trained"]
        assert (ours.path / "log.txt").is_file()

    results = {(run.method, run.seed): RunFolder(run.folder).result() for run in found.runs}
    for row in rows_of(out / "comparison.csv"):
        result = results[row["method"], int(row["seed"])]
        assert float(row["trained"]) == result["trained"][row["metric"]]
        assert float(row["untrained"]) == result["untrained"][row["metric"]]
    # What the table claims, from the runs themselves.
    for fact in ("initial_weights", "data_order", "pictures"):
        assert results["ranked", 0]["training"][fact] == results["contrast", 0]["training"][fact]
    assert results["ranked", 0]["training"]["data_order"] != results["ranked", 1]["training"]["data_order"]
    text = (out / "comparison.md").read_text()
    assert "48 pictures of 8 classes never seen in training; 2 seeds" in text
    assert "all methods started from the same weights, saw the same pictures in the same order and learnt" in text
    assert text.count("| untrained") == 1


def test_what_is_finished_is_only_read_and_what_is_missing_is_added(done, request_for, capsys):
    request = done
    folders = [request.out / name / f"seed-{seed}" for name in TWO for seed in range(2)]
    before = {folder: state(folder) for folder in folders}
    table = (request.out / "comparison.md").read_text()
    capsys.readouterr()
    compare(request)
    assert "begins" not in capsys.readouterr().err
    assert before == {folder: state(folder) for folder in folders}
    assert (request.out / "comparison.md").read_text() == table

    found = compare(request_for(TWO | {"third": {"loss": "SemihardTripletLoss"}}, seeds=3))
    begun = [line for line in capsys.readouterr().err.splitlines() if line.endswith("begins")]
    assert [line.split(" (")[0] for line in begun] == [
        *("third, seed 0", "third, seed 1", "ranked, seed 2", "contrast, seed 2", "third, seed 2"),
    ]
    assert before == {folder: state(folder) for folder in folders}
    assert len(found.finished("third")) == 3


def test_a_run_that_was_cut_goes_on(done, capsys):
    folder = done.out / "ranked" / "seed-1"
    model = (folder / "model.safetensors").read_bytes()
    (folder / "result.json").unlink()
    (folder / "model.safetensors").unlink()
    capsys.readouterr()
    compare(done)
    assert "ranked, seed 1 (run 3 of 4): going on after step 4" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == model


def test_a_run_of_another_configuration_is_not_taken_for_this_one(done, request_for, make_folder):
    out = done.out
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = str(make_folder([6] * 10, name="b"))
    for methods, overrides, message in [
        (TWO, ["--steps", "5"], r"ranked/seed-0 holds a run with steps 4, but 5 is asked for; name another"),
        (
            {"fresh": {}} | TWO | {"contrast": {}},
            [],
            r"contrast/seed-0 holds a run with loss.class_path .*Contrastive.*Ranked",
        ),
        (TWO, ["--data", other], r"data.root .*/pictures, but .*/b is asked"),
    ]:
        changed = request_for(methods, *overrides)
        with pytest.raises(InputError, match=message):
            compare(changed)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_run_that_diverges_is_a_row_and_is_not_tried_again(request_for, capsys):
    request = request_for({"ranked": {}, "wild": trouble()})
    found = compare(request)
    assert [run.title for run in found.failed] == ["wild, seed 0", "wild, seed 1"]
    assert len(found.finished("ranked")) == 2
    text = (request.out / "comparison.md").read_text()
    assert "wild, seed 1 failed: Troubled became NaN or infinite at step 3; no checkpoint had been written" in text
    assert "| 0 of 2 |" in text
    log = (request.out / "wild" / "seed-0" / "log.txt").read_bytes()
    capsys.readouterr()
    again = compare(request)
    assert capsys.readouterr().err.count("begins") == 0
    assert (request.out / "wild" / "seed-0" / "log.txt").read_bytes() == log
    assert [run.failure for run in again.failed] == [run.failure for run in found.failed]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("killed", "its process was ended by SIGKILL; the system does this when memory runs out"),
        ("raise", r"RuntimeError: boom, said the loss \(see .*log.txt\)"),
    ],
)
def test_a_crash_is_a_row_touches_no_other_run_and_is_tried_again(request_for, tmp_path, kind, said):
    spared = tmp_path / "spared"
    request = request_for({"wild": trouble(trouble=kind, unless=str(spared)), "ranked": {}}, seeds=1)
    found = compare(request)
    assert [run.method for run in found.failed] == ["wild"]
    assert len(found.finished("ranked")) == 1
    assert re.fullmatch(said, found.failed[0].failure)
    spared.touch()
    assert compare(request).failed == []
    assert ("Traceback" in (request.out / "wild" / "seed-0" / "log.txt").read_text()) == (kind == "raise")


def test_what_a_training_refuses_ends_the_comparison(request_for):
    request = request_for({"ranked": {}, "greedy": {"sampler": {"class_path": "NPairSampler", "batch_size": 18}}})
    with pytest.raises(InputError, match=r"^greedy, seed 0: sampler: the batch asks for 9 classes, but only 8"):
        compare(request)
    assert (request.out / "ranked" / "seed-0" / "result.json").is_file()
    assert not (request.out / "ranked" / "seed-1").exists()


def test_folds_hold_out_every_training_class_once(request_for):
    request = request_for({"ranked": {}, "contrast": TWO["contrast"]}, folds=4, seeds=1)
    found = compare(request)
    assert [(run.method, run.fold) for run in found.runs] == [(m, f) for f in range(4) for m in ("ranked", "contrast")]
    held = [run.result["protocol"]["scored"] for run in found.runs if run.method == "ranked"]
    assert sorted(name for names in held for name in names) == [f"class-{c:02d}" for c in range(8)]
    assert [row["fold"] for row in rows_of(request.out / "comparison.csv")][::16] == ["0", "1", "2", "3"]
    assert "without one of 4 folds of the training classes" in (request.out / "comparison.md").read_text()


SEARCH = {"ranked": {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.002}}}, "contrast": TWO["contrast"]}


@pytest.fixture
def searched(request_for, once, tmp_path_factory):
    """A finished comparison with a search, in the folder that `request_for` names."""
    return finished("searched", request_for(SEARCH, trials=3, seeds=1), once, tmp_path_factory)


def test_a_search_sees_training_classes_only_and_its_best_is_a_method(searched):
    request, found = searched, compare(searched)
    rows = rows_of(request.out / "search.csv")
    assert [(row["method"], row["trial"]) for row in rows] == [(m, str(t)) for m in SEARCH for t in range(3)]
    for row in rows:
        folder = RunFolder(request.out / row["method"] / "search" / f"trial-{int(row['trial']):03d}")
        tried, result = folder.config(), folder.result()
        assert result["protocol"]["classes"] == "validation"
        assert set(result["protocol"]["scored"]) <= {f"class-{c:02d}" for c in range(8)}
        assert tried["seed"] == tuning.SEED
        assert float(row["map@r"]) == result["trained"]["map@r"]
        assert float(row["optimizer.lr"]) == tried["optimizer"]["init_args"]["lr"]
        assert float(row["loss.margin"]) == tried["loss"]["init_args"]["margin"]
        assert (row["loss.alpha"] == "") == (row["method"] == "contrast")
    assert rows[0]["optimizer.lr"] == "0.002"
    assert (rows[0]["loss.alpha"], rows[0]["loss.margin"], rows[3]["loss.margin"]) == ("1.2", "0.4", "1.0")

    text = (request.out / "comparison.md").read_text()
    assert [method.name for method in found.methods] == ["ranked", "ranked, tuned", "contrast", "contrast, tuned"]
    for name in SEARCH:
        trials = [row for row in rows if row["method"] == name]
        best = max(trials, key=lambda row: float(row["map@r"]))
        assert [row["chosen"] for row in trials] == [str(row is best) for row in trials]
        run = found.finished(f"{name}, tuned")[0, None]
        arguments = RunFolder(run.folder).config()
        assert arguments["optimizer"]["init_args"]["lr"] == float(best["optimizer.lr"])
        assert arguments["loss"]["init_args"]["margin"] == float(best["loss.margin"])
        assert arguments["protocol"]["classes"] == "test"
        assert arguments["data"]["validation"] == 0
        if best is trials[0]:
            assert run.folder == request.out / name / "seed-0"
            assert f"- {name}, tuned: the best of 3 trials is the configuration as it is written" in text
        else:
            assert run.folder == request.out / name / f"tuned-{int(best['trial']):03d}" / "seed-0"
            assert f"- {name}, tuned: optimizer.lr {float(best['optimizer.lr']):g}" in text


def test_a_search_that_was_cut_makes_the_same_trials(searched, capsys):
    request = searched
    before = (request.out / "search.csv").read_text()
    for number in (1, 2):
        folder = request.out / "ranked" / "search" / f"trial-{number:03d}"
        for path in folder.iterdir():
            if number == 2 or path.name != "config.yaml":  # the second was begun, the third was not
                path.unlink()
    capsys.readouterr()
    compare(request)
    begun = [line for line in capsys.readouterr().err.splitlines() if "begins" in line or "going on" in line]
    assert begun == [
        "ranked, trial 1 (run 2 of 6): going on after step 0",
        "ranked, trial 2 (run 3 of 6): begins",
    ]
    assert (request.out / "search.csv").read_text() == before


def test_trials_are_kept_whatever_would_be_proposed_today(searched, monkeypatch):
    before = (searched.out / "search.csv").read_text()
    monkeypatch.setattr(tuning, "propose", lambda config, trials: {"optimizer.lr": 0.1})  # as by another Optuna
    compare(searched)
    assert (searched.out / "search.csv").read_text() == before


def test_more_trials_go_on_from_those_there_are(searched, request_for):
    request = searched
    before = rows_of(request.out / "search.csv")
    compare(request_for(SEARCH, trials=4, seeds=1))
    after = rows_of(request.out / "search.csv")
    values = ("method", "trial", "map@r", "optimizer.lr", "loss.alpha", "loss.margin")
    kept = [row for row in after if row["trial"] != "3"]
    assert [[row[key] for key in values] for row in kept] == [[row[key] for key in values] for row in before]
    assert len(after) == 8


def test_trials_that_come_to_nothing_count_as_trials(request_for, monkeypatch):
    ranges = {"alpha": tuning.Range(0.1, 3.0)}  # no ranked list loss below its margin of 0.4
    monkeypatch.setitem(tuning.LOSSES, "Troubled", ranges)
    wild = trouble(trouble="nan", unless="/")
    found = compare(request_for({"wild": wild}, trials=6, seeds=1))
    rows = rows_of(found.methods[0].folder.parent / "search.csv")
    assert len(rows) == 6
    for row in rows:
        assert (row["map@r"] == "") == (float(row["loss.alpha"]) <= 0.4)
        assert ("loss:" in row["failure"]) == (row["map@r"] == "")
    assert any(row["failure"] for row in rows)
    assert found.failed == []


def test_a_search_of_which_nothing_is_left_is_said(request_for):
    found = compare(request_for({"ranked": {}, "wild": trouble()}, trials=1, seeds=1))
    assert [method.name for method in found.methods] == ["ranked", "ranked, tuned", "wild"]
    assert "none of 1 trials came to a result (Troubled became NaN" in found.methods[2].note


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/one.yaml", "a/two.yaml"], ["one", "two"]),
        (["cub/rll.yaml", "sop/rll.yaml", "sop/angular.yaml"], ["cub/rll", "sop/rll", "angular"]),
        (["x/cub/rll.yaml", "y/cub/rll.yaml", "y/sop/rll.yaml"], ["x/cub/rll", "y/cub/rll", "sop/rll"]),
        (["rll.yaml", "sop/rll.yaml"], None),
    ],
)
def test_methods_are_named_as_their_files(tmp_path, files, names):
    found = method_names([tmp_path / file for file in files])
    assert found == (names or [f"{tmp_path.name}/rll", "sop/rll"])


def test_a_configuration_named_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a.yaml was named twice"):
        method_names([tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c" / ".." / "a.yaml"])


def test_a_tuned_baseline_that_was_not_found_is_refused(request_for):
    with pytest.raises(InputError, match=r"--baseline 'wild, tuned' is not there: no trial of it came to a result"):
        compare(request_for({"wild": trouble()}, trials=1, seeds=1, baseline="wild, tuned"))


def test_a_file_in_the_place_of_the_folder_is_refused(request_for):
    request = request_for(TWO)
    request.out.write_text("mine")
    with pytest.raises(
        InputError, match=r"--out expects a folder that can be written to, but .*out cannot be \(File exists\)"
    ):
        compare(request)
    assert request.out.read_text() == "mine"


def test_a_result_without_its_model_is_refused(done):
    (done.out / "ranked" / "seed-1" / "model.json").unlink()
    with pytest.raises(InputError, match=r"ranked/seed-1 holds a result but no model.json; remove the folder to"):
        compare(done)


def test_the_papers_figure_is_that_of_the_configs_folder_and_of_test_classes(
    configs, pictures, small_cub, monkeypatch, tmp_path
):
    root, small = small_cub()
    monkeypatch.setitem(PUBLISHED, "cub200", small)
    files = [file.rename(tmp_path / "cub200" / file.name) for file in configs(**TWO)]
    cells = {("cub200", "ranked"): {"recall@1": 0.547}}
    monkeypatch.setattr("nearkin.compare.figures", lambda data_set, name: cells.get((data_set, name)))
    for overrides, expected in (([], {"recall@1": 0.547}), (["--protocol.classes", "validation"], None)):
        given = ["--data", "cub200", "--data.root", str(root), *overrides]
        assert [method.papers for method in read_methods(Request(files, given, tmp_path / "out"))] == [expected, None]
    others = read_methods(Request(files, ["--data", str(pictures)], tmp_path / "out"))
    assert [method.papers for method in others] == [None, None]


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        ([], {"seeds": 0}, "--seeds must be at least 1, got 0"),
        ([], {"folds": 1}, "--folds must be at least 2, got 1"),
        ([], {"trials": 0}, "--trials must be at least 1, got 0"),
        (
            [],
            {"folds": 3, "trials": 2},
            "--folds scores training classes that the search of --trials would",
        ),
        (["--protocol.classes", "validation"], {"trials": 2}, "protocol.classes validation would score on them"),
        (["--data", "nowhere"], {}, r"nowhere does not exist; name one with --data"),
        ([], {"folds": 20}, r"--folds 20: data.validation 0.05 holds out 0 of 8 training classes"),
        ([], {"baseline": "rankd"}, "--baseline expects one of the methods, got 'rankd'; did you mean ranked?"),
        ([], {"baseline": "ranked, tuned"}, "--baseline expects one of the methods"),
        ([], {"show": ("ranked", "contra")}, "--show expects two of the methods, got 'contra'; did you mean contrast?"),
        ([], {"show": ("ranked", "ranked")}, "--show expects two methods, got 'ranked' twice"),
        (["--seed", "3"], {}, "--seed is set by nearkin compare"),
        (["--data.fold", "1"], {}, "--data.fold is set by nearkin compare"),
        (["--data.validation", "0.5"], {"folds": 2}, "--data.validation is set by nearkin compare"),
        (["--resume"], {}, "--resume is of nearkin train; nearkin compare goes on with its runs by itself"),
        (["--lss.alpha", "1"], {}, "unknown key lss.alpha"),
        (["--loss.alpha", "1"], {}, r"contrast.yaml: unknown key loss.alpha of ContrastiveLoss"),
        (["--steps", "many"], {}, r"ranked.yaml: .*many"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(request_for, overrides, options, message):
    with pytest.raises(InputError, match=message):
        compare(request_for(TWO, *overrides, **options))
    assert not request_for(TWO).out.exists()


def test_methods_of_different_pictures_or_protocols_are_refused(request_for, make_folder, pictures):
    other = {"data": {"root": str(make_folder([6] * 10, name="other"))}}
    request = request_for({"other": other, "ranked": {}, "another": {"data": {"root": str(pictures)}}})
    with pytest.raises(InputError, match=r"data.root is .*other in other and .*pictures in another; give one for all"):
        compare(Request([request.files[0], request.files[2]], [], request.out))
    assert len(compare(Request(request.files, request.overrides, request.out, seeds=1)).runs) == 3
    differing = request_for({"ranked": {}, "k": {"protocol": {"kmeans_seed": 7}}})
    with pytest.raises(InputError, match=r"protocol.kmeans_seed is 0 in ranked and 7 in k"):
        compare(differing)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("x", "x, tuned"),
            r"has a method with searched values as well as the configuration x, tuned.yaml; rename that",
        ),
        (("x", "search.csv"), r"has the file search.csv as well as the configuration search.csv.yaml; rename that"),
    ],
)
def test_names_that_the_comparison_needs_itself_are_refused(request_for, names, message):
    with pytest.raises(InputError, match=message):
        compare(request_for({name: {} for name in names}, trials=2))


def test_two_comparisons_of_one_method_in_one_folder_are_not_let_run_at_once(done, request_for):
    with RunFolder(done.out / "contrast").claimed():
        with pytest.raises(InputError, match=r"another process is training into .*contrast; wait for it"):
            compare(done)
        assert len(compare(request_for({"ranked": TWO["ranked"]})).runs) == 2  # another method is nobody's business


def test_a_trial_that_another_process_is_at_is_not_taken_for_one_that_failed(request_for):
    request = request_for({"ranked": {}}, trials=2, seeds=1)
    busy = RunFolder(request.out / "ranked" / "search" / "trial-001").claimed()
    with busy, pytest.raises(InputError, match=r"trial 1: another process is training into"):
        compare(request)


def test_show_of_a_method_without_a_finished_run_is_said(done, request_for, capsys):
    (done.out / "contrast" / "seed-0" / "result.json").rename(done.out / "contrast" / "seed-0" / "failed.txt")
    (done.out / "contrast" / "seed-1" / "result.json").rename(done.out / "contrast" / "seed-1" / "failed.txt")
    compare(request_for(TWO, show=("ranked", "contrast")))
    assert "--show: no run was finished by both ranked and contrast, so the page" in capsys.readouterr().err


# Command line


def test_the_command_prints_the_table_and_where_it_lies(nearkin, request_for, pictures):
    request = request_for(TWO)
    status, out, err = nearkin(
        *("compare", request.files[0], "--seeds=1", "--data", pictures, request.files[1]),
        *("--out", request.out, "--steps", "3", "--baseline", "contrast", "--show", "ranked", "contrast"),
    )
    assert status == 0, err
    assert out == (request.out / "comparison.md").read_text() + f"comparison: {request.out / 'comparison.html'}\n"
    assert "contrast (baseline)" in out
    assert "ranked, seed 0 (run 1 of 2): Recall@1" in err
    assert RunFolder(request.out / "ranked" / "seed-0").config()["steps"] == 3


def test_failed_runs_are_status_1_after_the_table(nearkin, request_for, pictures):
    request = request_for({"ranked": {}, "wild": trouble()})
    status, out, err = nearkin("compare", *request.files, "--data", pictures, "--seeds", 1, "--out", request.out)
    assert status == 1
    assert "| wild, seed 0 " in out
    last = err.splitlines()[-1]
    assert last.startswith("nearkin: 1 of 2 runs failed, the first is wild, seed 0: Troubled became NaN or infinite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: CONFIG; see nearkin compare --help"),
        (["nowhere.yaml"], "there is no file nowhere.yaml"),
        (["x.yaml", "--seeds", "two"], "--seeds"),
        (["x.yaml", "--show", "a"], "--show"),
        (["x.yaml", "--steps"], "--steps expects a value behind it"),
        (["x.yaml", "--resume", "--seeds", "2"], "--resume is of nearkin train"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(nearkin, arguments, message):
    status, out, err = nearkin("compare", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_options_are_told_from_keys_of_train():
    own, others = commands.split_options(
        [
            "a.yaml",
            "--steps",
            "20",
            "--seeds",
            "3",
            "b.yaml",
            "--loss.alpha=1",
            "--show",
            "a",
            "b",
            "--resume",
            "c.yaml",
            "-h",
        ],
        {"seeds": 1, "show": 2},
    )
    assert own == ["a.yaml", "--seeds", "3", "b.yaml", "--show", "a", "b", "c.yaml", "-h"]
    assert others == ["--steps", "20", "--loss.alpha=1", "--resume"]


def test_ctrl_c_between_two_trainings_is_not_lost():
    with pytest.raises(KeyboardInterrupt), Worker():
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("wait", [0, 0.001, 0.005, 0.05])
def test_a_signal_as_a_training_begins_is_not_lost(pictures, tmp_path, number, wait):
    """SIGTERM comes twice at most, and then a kill."""
    begun = ("--data", pictures, "--out", tmp_path / "run", "--image.size", "16", "--steps", "4000")
    settings = config.read([str(each) for each in begun])
    worker = Worker()

    def send():
        while worker.process is None or worker.process.pid is None:
            time.sleep(0.0002)
        time.sleep(wait)
        for _ in range(2 if number == signal.SIGTERM else 1):
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt) as stopped, worker:
        worker.train(settings, tmp_path / "log.txt")
    sender.join()
    assert (stopped.type is Terminated) == (number == signal.SIGTERM)
    assert not (tmp_path / "run" / "result.json").exists()
