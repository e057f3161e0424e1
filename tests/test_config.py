from pathlib import Path

import pytest
import yaml
from torch import nn

from nearkin import config
from nearkin.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))


def read(*arguments):
    return config.read(["--data", "/pictures", *arguments]).config


def test_defaults_are_complete():
    tree = read()
    assert tree["data"] == {"root": "/pictures", "validation": 0.0}
    assert tree["out"] == str(Path("runs/pictures").resolve())
    assert tree["loss"]["init_args"]["alpha"] == 1.2
    assert tree["optimizer"]["init_args"]["lr"] == 1e-3
    assert "seed" not in tree["sampler"]["init_args"]


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("steps: 7\nseed: 3\nloss: {class_path: nearkin.losses.RankedListLoss, init_args: {alpha: 1.1}}\n")
    tree = read(str(file), "--steps", "9", "--loss.margin=0.3")
    assert (tree["steps"], tree["seed"]) == (9, 3)
    assert (tree["loss"]["init_args"]["alpha"], tree["loss"]["init_args"]["margin"]) == (1.1, 0.3)


@pytest.mark.parametrize(
    "text",
    [
        "loss: AngularLoss",
        "loss: {class_path: AngularLoss}",
        "loss: {class_path: nearkin.losses.AngularLoss, init_args: {alpha: 45}}",
        "loss: {class_path: AngularLoss, alpha: 45.0}",
    ],
)
def test_short_and_full_forms_of_a_class_mean_the_same(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    expected = {"class_path": "nearkin.losses.AngularLoss", "init_args": {"alpha": 45.0, "normalize": True}}
    assert read(str(tmp_path / "c.yaml"))["loss"] == expected
    assert read("--loss", "AngularLoss")["loss"] == expected
    assert read("--loss.alpha", "45", "--loss", "AngularLoss")["loss"] == expected


def test_another_class_starts_from_its_own_defaults():
    assert read("--optimizer", "SGD")["optimizer"]["init_args"]["weight_decay"] == 0  # AdamW's is 0.01
    assert read("--optimizer", "AdamW", "--optimizer.lr", "1")["optimizer"]["init_args"]["weight_decay"] == 0.01
    kept = read("--loss", "nearkin.losses.ranked_list.RankedListLoss", "--loss.alpha", "1")["loss"]["init_args"]
    assert kept["margin"] == 0.4


def test_a_class_of_the_users_own():
    assert read("--loss", f"{__name__}.Mine", "--loss.power", "3")["loss"]["init_args"] == {"power": 3}


class Mine(nn.Module):
    def __init__(self, power: int = 2) -> None:
        super().__init__()
        self.power = power


def test_short_forms_of_data_and_backbone():
    assert read("--backbone", "timm:resnet18")["backbone"] == {"name": "timm:resnet18", "weights": "none"}
    both = read("--backbone", "convnet", "--backbone.weights", "w.pt", "--data.validation", "0.2")
    assert both["backbone"] == {"name": "convnet", "weights": "w.pt"}
    assert both["data"] == {"root": "/pictures", "validation": 0.2}


def test_a_schedule_is_as_long_as_the_run_unless_told():
    options = ("--schedule", "CosineAnnealingLR", "--steps", "500", "--warmup", "50")
    assert read(*options)["schedule"]["init_args"]["T_max"] == 450
    assert read(*options, "--schedule.T_max", "100")["schedule"]["init_args"]["T_max"] == 100


def test_what_is_written_reads_back_the_same(tmp_path):
    options = ("--schedule", "StepLR", "--schedule.step_size", "5", "--logger", "tensorboard", "--optimizer", "SGD")
    tree = read(*options)
    (tmp_path / "config.yaml").write_text(config.to_yaml(tree))
    assert config.read([str(tmp_path / "config.yaml")]).config == tree


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.validaton", "0.1"], "unknown key data.validaton; did you mean data.validation?"),
        (["--los", "AngularLoss"], "unknown key los; did you mean loss?"),
        (["--overwrit"], "unknown key overwrit; did you mean overwrite?"),
        (["--loss", "AngularLos"], "unknown loss 'AngularLos'; did you mean AngularLoss?"),
        (["--loss", "Linear"], "unknown loss 'Linear'"),
        (["--loss.alhpa", "1"], "unknown key loss.alhpa of RankedListLoss; did you mean loss.alpha?"),
        (["--loss", "AngularLoss", "--loss.margin", "1"], "unknown key loss.margin of AngularLoss"),
        (["--sampler", "NPairSample"], "did you mean NPairSampler?"),
        (["--sampler.seed", "1"], "unknown key sampler.seed"),
        (["--optimizer", "Adma"], "did you mean Adam"),
        (["--schedule.gamma", "1"], "schedule.gamma needs a class to belong to"),
        (["--loss", "no.such.Loss"], "loss: no.such.Loss cannot be imported"),
        (["--steps", "many"], r'Parser key "steps": Expected a <class .int.>. Got value: many'),
        (["--steps", "many", "--schedule", "CosineAnnealingLR"], "steps and warmup expect numbers, got many, 0"),
        (["--image.fit", "stretch"], "squash"),
        (["--image", "28"], r"image has keys of its own \(image.size, image.resize, image.fit\); got '28'"),
        (["--steps"], "--steps expects a value"),
        (["a.yaml", "b.yaml"], "at most one CONFIG.yaml, got a.yaml, b.yaml"),
        (["nowhere.yaml"], "no file nowhere.yaml"),
    ],
)
def test_mistakes_are_named_with_the_nearest_that_exists(arguments, message):
    with pytest.raises(InputError, match=message):
        read(*arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: [1", "is not YAML"),
        (b"just text", "should hold keys and values, holds str"),
        (b"", "should hold keys and values, holds NoneType"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"setps: 3", "unknown key setps; did you mean steps?"),
        (b"loss: {class_path: AngularLoss, init_args: {alfa: 3}}", "did you mean loss.alpha?"),
        (b"augment: {mirorr: false}", "did you mean augment.mirror?"),
    ],
)
def test_mistakes_in_a_file(tmp_path, content, message):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(str(tmp_path / "c.yaml"))


def test_no_pictures_is_an_error():
    with pytest.raises(InputError, match="no pictures: name a folder"):
        config.read([])


def test_help_names_every_key_and_no_foreign_class():
    text = config.help_text()
    for key in ("--data.root", "--image.size", "--augment.rotate", "--loss", "--protocol.ks", "--out"):
        assert key in text
    assert "torch.nn" not in text


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_config_of_the_project_is_valid_and_opens_with_its_command(file):
    assert f"nearkin train configs/{file.parent.name}/{file.name}" in file.read_text().splitlines()[0]
    assert yaml.safe_load(file.read_text()).keys() <= read(str(file)).keys()
