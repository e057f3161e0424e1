"""The whole path on real pictures and on the demo's: what the README promises."""

import json

import pytest

from nearkin import cli

pytestmark = pytest.mark.slow


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    assert stopped.value.code == 0


def gain(folder):
    """Recall@1 after training, and how many points it is above the untrained network's."""
    result = json.loads((folder / "result.json").read_text())
    trained, untrained = (100 * result[key]["recall@1"] for key in ("trained", "untrained"))
    return trained, trained - untrained


def test_the_demo_learns_25_points_on_unseen_characters(tmp_path, capsys):
    run("demo", "--out", tmp_path)
    out = capsys.readouterr().out
    assert "untrained" in out
    assert f"report: {tmp_path / 'report.html'}" in out
    assert gain(tmp_path)[1] >= 25
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_omniglot_reaches_77_percent(shared, tmp_path):
    run("train", "configs/omniglot/ranked_list.yaml", "--data", shared("omniglot"), "--out", tmp_path)
    trained, above = gain(tmp_path)
    assert trained >= 77
    assert above >= 25
