import json

import doctor_values
import pytest
import torch

from nearkin import doctor, losses


def test_a_sound_installation_passes(nearkin):
    status, out, err = nearkin("doctor")
    assert (status, err) == (0, "")
    assert f"torch         {torch.__version__.split('+')[0]}" in out
    assert "WRONG" not in out
    assert out.endswith("checks, none wrong\n")
    for device in doctor.devices():
        assert f"ok     {device} float32 TripletLoss, disjoint\n" in out


def test_json_says_the_same(nearkin, tmp_path):
    status, out, _ = nearkin("doctor", tmp_path, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "GB free" in found["disk"][str(tmp_path)]
    assert {"cpu float64 AngularLoss", "cpu float32 retrieval", "reading JPEG"} <= {c["name"] for c in found["checks"]}
    assert all(check["right"] for check in found["checks"])


def test_a_wrong_loss_is_found_in_every_precision(nearkin, monkeypatch):
    forward = losses.AngularLoss.forward
    monkeypatch.setattr(losses.AngularLoss, "forward", lambda self, x, y: forward(self, x, y) * (1 + 3e-4))
    status, out, err = nearkin("doctor")
    assert status == 1
    wrong = [line for line in out.splitlines() if "WRONG" in line]
    assert len(wrong) == 2 * len(doctor.devices())
    assert wrong[0].startswith(
        "  WRONG  cpu float64 AngularLoss: expected 3.68488838719 -1.51853707743 ± 1e-09, got 3.685"
    )
    assert f"{len(wrong)} of " in err


def test_a_loss_of_the_right_value_and_a_wrong_gradient_is_found(monkeypatch):
    forward = losses.DDMLLoss.forward
    monkeypatch.setattr(
        losses.DDMLLoss, "forward", lambda self, x, y: forward(self, x, y) + 1e-3 * (x - x.detach()).sum()
    )
    assert {check.name for check in doctor.self_test() if not check.right} >= {
        "cpu float64 DDMLLoss",
        "cpu float32 DDMLLoss",
    }


def test_an_error_is_a_wrong_answer_and_the_other_checks_go_on(nearkin, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no kernel\nfor this processor")

    monkeypatch.setattr(doctor, "kmeans", broken)
    status, out, _ = nearkin("doctor")
    assert status == 1
    assert "WRONG  cpu float32 kmeans: expected 65.0201822917, got RuntimeError: no kernel for this processor" in out
    assert "ok     reading AVIF" in out


def test_pictures_that_are_read_wrong_are_found(monkeypatch):
    read = doctor.read_image
    monkeypatch.setattr(doctor, "read_image", lambda content: read(content)[:, :, ::-1])  # BGR
    wrong = [check.name for check in doctor.self_test() if not check.right]
    assert wrong == [f"reading {kind}" for kind in doctor.FORMATS]


def test_a_folder_that_is_not_there(nearkin, tmp_path):
    status, out, err = nearkin("doctor", tmp_path / "gone")
    assert (status, out) == (2, "")
    assert err == f"nearkin: {tmp_path / 'gone'}: no such folder; name one to see how much is free there\n"


def test_the_stored_values_are_those_of_the_references():
    stored, computed = json.loads(doctor.STORED.read_text()), doctor_values.values()
    assert stored.keys() == computed.keys()
    for key in ("embeddings", "direction", "labels", "clusters"):
        assert stored[key] == computed[key]
    for name, case in computed["losses"].items():
        for key, value in case.items():
            same = pytest.approx(value, rel=1e-12, abs=1e-12) if key in ("value", "slope") else value
            assert stored["losses"][name][key] == same
    assert stored["metrics"] == {name: pytest.approx(each, rel=1e-12) for name, each in computed["metrics"].items()}
    assert stored["pictures"].keys() == computed["pictures"].keys() == set(doctor.FORMATS)


def test_every_loss_has_stored_values():
    kinds = {case["class"] for case in json.loads(doctor.STORED.read_text())["losses"].values()}
    assert kinds | {"CrossBatchMemory"} == set(losses.__all__)  # that one is around others
