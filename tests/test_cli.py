import errno
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from nearkin.run_folder import RunFolder

SMALL = [
    "--image.size",
    "16",
    "--embedding_size",
    "8",
    "--sampler.classes",
    "3",
    "--sampler.images",
    "3",
    "--steps",
    "3",
]


@pytest.fixture
def trained(nearkin, make_folder, tmp_path):
    root = make_folder([6] * 8)
    status, out, _ = nearkin("train", "--data", root, "--out", tmp_path / "run", *SMALL)
    assert status == 0
    return tmp_path / "run", root, out


def test_training_prints_untrained_beside_trained(trained):
    run, _, out = trained
    assert "untrained    trained" in out
    assert "24 pictures of 4 unseen classes" in out
    assert "k-means++ start, 1 run(s), seed 0" in out
    assert f"run: {run}" in out


def test_evaluate_agrees_with_the_training(nearkin, trained):
    run, _, _ = trained
    status, out, _ = nearkin("evaluate", run, "--json")
    assert status == 0
    assert json.loads(out) == pytest.approx(RunFolder(run).result()["trained"])
    shown = nearkin("evaluate", run)[1]
    assert "recall@1" in shown
    assert "24 pictures of 4 unseen classes" in shown
    assert "k-means++ start, 1 run(s), seed 0" in shown


def test_report_writes_the_page_of_a_run(nearkin, trained):
    run, root, _ = trained
    status, out, _ = nearkin("report", run)
    assert (status, out) == (0, f"report: {run / 'report.html'}\n")
    page = (run / "report.html").read_text()
    assert "class-04" in page
    assert str(root.parent) not in page  # whose disk it was is nobody's business


def test_report_shows_the_classes_that_were_scored_and_no_others(nearkin, trained, make_folder, caplog):
    run, _, _ = trained
    later = make_folder([6] * 9, name="later")  # class-08 came after the training
    (later / "class-07" / "00.png").unlink()
    assert nearkin("report", run, "--data", later)[0] == 0
    page = (run / "report.html").read_text()
    assert "class-07" in page
    assert "class-08" not in page
    assert "scored on 24 pictures of these classes; the page shows the 23 that are there now" in caplog.text
    status, _, err = nearkin("report", run, "--data", make_folder([6] * 3, name="other"))
    assert (status, err.count("\n")) == (2, 1)
    assert "holds none of the classes" in err or "trained on all" in err


def test_a_run_that_trained_beside_broken_files_can_be_reported(nearkin, make_folder, tmp_path):
    root = make_folder([20, 20, 20, 4, 4, 4])
    for name in ("class-03", "class-04", "class-05"):
        (root / name / "00.png").write_bytes(b"")  # 3 of 72, and 3 of the 12 that test
    assert nearkin("train", "--data", root, "--out", tmp_path / "run", *SMALL)[0] == 0
    assert nearkin("evaluate", tmp_path / "run")[0] == 0
    assert nearkin("report", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("unusable", ["a file", "below a file", "another's file", "full"])
def test_a_run_can_be_scored_when_its_cache_cannot_be_used(
    nearkin, make_folder, tmp_path, caplog, monkeypatch, unusable
):
    folder = tmp_path / "here" / "cache"
    run = ("train", "--data", make_folder([6] * 8), "--out", tmp_path / "run", "--data.cache", folder, *SMALL)
    assert nearkin(*run)[0] == 0
    (index,) = folder.glob("*.json")
    shutil.rmtree(folder)
    reason = "Not a directory"
    if unusable == "a file":
        folder.write_text("")
        reason = "File exists"
    elif unusable == "below a file":
        folder.parent.rmdir()
        folder.parent.write_text("")
    elif unusable == "another's file":
        index.mkdir(parents=True)
        reason = f"data.cache expects a file {index}, but that is a folder"
    else:
        monkeypatch.setattr("os.fsync", full)
        reason = "No space left on device"
    status, out, _ = nearkin("evaluate", tmp_path / "run", "--json")
    assert status == 0
    assert json.loads(out) == pytest.approx(RunFolder(tmp_path / "run").result()["trained"])
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"the run's cache {folder} cannot be used (")
    assert reason in warning
    if unusable != "full":  # a report is a file that is to be kept, too
        assert nearkin("report", tmp_path / "run")[0] == 0
    status, _, err = nearkin(*run, "--overwrite")
    assert (status, err.count("\n")) == (2, 1)


def full(file):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_wrong_with_the_pictures_is_not_put_down_to_the_cache(nearkin, make_folder, tmp_path, caplog):
    root = make_folder([6] * 8)
    run = ("train", "--data", root, "--out", tmp_path / "run", "--data.cache", tmp_path / "cache", *SMALL)
    assert nearkin(*run)[0] == 0
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    status, _, err = nearkin("evaluate", tmp_path / "run")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot be read as pictures" in err
    assert "cache" not in caplog.text


def test_the_demo_leaves_the_runs_of_others_alone(nearkin, trained):
    run, _, _ = trained
    before = sorted(path.name for path in run.iterdir())
    status, _, err = nearkin("demo", "--out", run)
    assert (status, err.count("\n")) == (2, 1)
    assert "of a run that is no demo; name another with --out" in err
    assert sorted(path.name for path in run.iterdir()) == before


def test_evaluate_on_other_pictures_takes_every_class_that_is_new(nearkin, trained, make_folder):
    run, _, _ = trained
    other = make_folder([3] * 10, name="other")  # class-00 to class-03 were trained on
    status, out, _ = nearkin("evaluate", run, "--data", other, "--json")
    assert status == 0
    assert json.loads(out).keys() == {
        "recall@1",
        "recall@2",
        "recall@4",
        "recall@8",
        "map@r",
        "r_precision",
        "nmi",
        "f1",
    }
    for path in [*other.glob("class-0[4-9]")]:
        path.rename(path.parent.parent / path.name)
    status, _, err = nearkin("evaluate", run, "--data", other)
    assert status == 2
    assert "trained on all 4 classes" in err


def test_evaluate_scores_the_levels_that_are_named(nearkin, make_folder, tmp_path):
    run = tmp_path / "run"
    levels = ["--levels", "[block3, block4]"]
    assert nearkin("train", "--data", make_folder([6] * 8), "--out", run, *SMALL, *levels)[0] == 0
    scores = {}
    for levels in ([], ["block3"], ["block4"], ["block3", "block4"]):
        status, out, _ = nearkin("evaluate", run, "--json", *(["--levels", *levels] if levels else []))
        assert status == 0
        scores[tuple(levels)] = json.loads(out)
    assert scores[()] == pytest.approx(RunFolder(run).result()["trained"])
    assert scores[()] == pytest.approx(scores["block3", "block4"])
    assert scores[("block3",)] != scores[("block4",)] != scores[()] != scores[("block3",)]
    status, _, err = nearkin("evaluate", run, "--levels", "block2")
    assert (status, err) == (2, "nearkin: the model has no level 'block2'; did you mean block4?\n")


def test_a_warning_of_a_loss_is_one_line(nearkin, make_folder, tmp_path):
    root = make_folder([6] * 8)
    status, _, err = nearkin(
        "train",
        "--data",
        root,
        "--out",
        tmp_path / "run",
        *SMALL,
        "--embedding_size",
        "9",
        "--loss",
        "SpectralClusteringLoss",
    )
    assert status == 0
    assert [line for line in err.splitlines() if not line.startswith(("reading pictures", "training"))] == [
        "nearkin: SpectralClusteringLoss takes more samples than dimensions, got 9 samples of 9: loss and gradient are "
        "0 unless the samples are linearly dependent; use a batch of more than 9, or a smaller embedding"
    ]


def test_help_and_print_config_need_no_pictures(nearkin):
    assert "nearkin COMMAND" in nearkin()[1]
    assert "nearkin COMMAND" in nearkin("--help")[1]
    assert "--loss" in nearkin("train", "--help")[1]
    assert "alpha: 45.0" in nearkin("train", "--print_config", "--loss", "AngularLoss")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["train", "--data", "nowhere"], "nowhere does not exist"),
        (["train"], "no pictures"),
        (["evaluate"], "required: run; see nearkin evaluate --help"),
        (["evaluate", "nowhere"], "holds no model.safetensors"),
        (["report", "nowhere"], "nowhere"),
        (["demo", "--sed", "1"], "--sed"),
        (["demo", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["demo", "--out", "~no-one/x"], "--out expects the name of a folder, got '~no-one/x' ("),
        (["demo", "--out", ""], "--out expects the name of a folder, got ''; name one"),
        (["compare", "a.yaml", "--out", ""], "--out expects the name of a folder, got ''; name one"),
        (["data", "get", "cub200", "--root", ""], "--root expects the name of a folder, got ''; name one"),
        (["evaluate", "run", "--data", ""], "data.root expects the name of a folder, got ''; name one"),
        (["report", "run", "--data", "~no-one"], "data.root expects the name of a folder, got '~no-one' ("),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(nearkin, arguments, message):
    status, out, err = nearkin(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("nearkin: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_damaged_model_is_refused(nearkin, trained):
    run, _, _ = trained
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    status, _, err = nearkin("evaluate", run)
    assert (status, err.count("\n")) == (2, 1)
    assert "another sha256" in err
    (run / "model.json").write_text("{}")
    assert "does not describe a model" in nearkin("evaluate", run)[2]


def test_a_folder_that_cannot_be_made_is_one_line(nearkin, make_folder, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = nearkin("train", "--data", make_folder([4] * 6), "--out", tmp_path / "file" / "run", *SMALL)
    assert (status, err.count("\n")) == (2, 1)
    assert "file" in err


def test_works_as_a_module():
    command = [sys.executable, "-m", "nearkin", "tran"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "nearkin: unknown command 'tran'; did you mean train?\n")
    deaf = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], check=False)
    assert deaf.returncode == 2


COUNTS = """
from nearkin import progress
progress.SECONDS_BETWEEN_LINES = 0
with progress.Bar("counting", 3) as bar:
    bar.advance(1, "so far")
"""


@pytest.mark.parametrize("command", [["-m", "nearkin", "tran"], ["-c", COUNTS]])
def test_a_line_reaches_what_several_processes_share_in_one_piece(command):
    read, write = socket.socketpair(type=socket.SOCK_SEQPACKET)  # which keeps apart what was written apart
    with read:
        with write:
            subprocess.run([sys.executable, "-u", *command], stderr=write, check=False)
        first = read.recv(1_000)
    assert first.startswith((b"nearkin: unknown command", b"counting 1/3, "))
    assert first.endswith((b"train?\n", b" left, so far\n"))
