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
    assert tree["data"] == {"root": "/pictures", "name": None, "validation": 0.0, "fold": 0, "cache": None}
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
    expected = {
        "class_path": "nearkin.losses.AngularLoss",
        "init_args": {"alpha": 45.0, "normalize": True, "chunk_size": None},
    }
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--loss.loss", "ContrastiveLoss", "--loss.loss.margin", "0.3"],
        ["--loss.loss.margin", "0.3", "--loss.loss", "ContrastiveLoss"],
        ["--loss.loss", "nearkin.losses.ContrastiveLoss", "--loss.loss.init_args.margin", "0.3"],
    ],
)
def test_a_loss_inside_a_loss_is_one_too(tmp_path, arguments):
    memory = ("--loss", "CrossBatchMemory")
    tree = read(*memory, *arguments)
    inner = {
        "class_path": "nearkin.losses.ContrastiveLoss",
        "init_args": {"margin": 0.3, "normalize": True, "chunk_size": None},
    }
    assert tree["loss"]["init_args"]["loss"] == inner
    (tmp_path / "c.yaml").write_text(config.to_yaml(tree))
    again = read(str(tmp_path / "c.yaml"), "--loss.loss.normalize", "false")["loss"]["init_args"]["loss"]
    assert again["init_args"] == {"margin": 0.3, "normalize": False, "chunk_size": None}
    (tmp_path / "c.yaml").write_text("loss: {class_path: CrossBatchMemory, init_args: {loss: {class_path: DDMLLoss}}}")
    again = read(str(tmp_path / "c.yaml"))["loss"]["init_args"]["loss"]
    assert again == read(*memory, "--loss.loss", "DDMLLoss")["loss"]["init_args"]["loss"]


def test_short_forms_of_data_and_backbone():
    assert read("--backbone", "timm:resnet18")["backbone"] == {"name": "timm:resnet18", "weights": "none"}
    both = read("--backbone", "convnet", "--backbone.weights", "w.pt", "--data.validation", "0.2")
    assert both["backbone"] == {"name": "convnet", "weights": "w.pt"}
    assert both["data"] == {"root": "/pictures", "name": None, "validation": 0.2, "fold": 0, "cache": None}


@pytest.mark.parametrize(
    ("text", "levels"),
    [("block2", ["block2"]), ("[block2, block4]", ["block2", "block4"]), ("null", None), ("[]", [])],
)
def test_levels_are_a_list(tmp_path, text, levels):
    assert read("--levels", text)["levels"] == levels
    (tmp_path / "c.yaml").write_text(f"levels: {text}\nlogger: [tensorboard, wandb]\n")
    tree = read(str(tmp_path / "c.yaml"))
    assert (tree["levels"], tree["logger"]) == (levels, ["tensorboard", "wandb"])
    assert read(str(tmp_path / "c.yaml"), "--levels", "block1")["levels"] == ["block1"]


def test_the_cache_is_absolute_or_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read("--data.cache", "kept")["data"]["cache"] == str(tmp_path / "kept")
    (tmp_path / "a.yaml").write_text("data: {cache: kept}")
    assert read("a.yaml")["data"]["cache"] == str(tmp_path / "kept")
    assert read("a.yaml", "--data.cache", "null")["data"]["cache"] is None


def test_a_schedule_is_as_long_as_the_run_unless_told():
    options = ("--schedule", "CosineAnnealingLR", "--steps", "500", "--warmup", "50")
    assert read(*options)["schedule"]["init_args"]["T_max"] == 450
    assert read(*options, "--schedule.T_max", "100")["schedule"]["init_args"]["T_max"] == 100
    cycle = ("--schedule", "OneCycleLR", "--schedule.max_lr", "0.1", "--steps", "500")
    assert read(*cycle)["schedule"]["init_args"]["total_steps"] == 500


def test_a_loss_learns_the_sizes_that_it_needs(make_folder):
    root = make_folder([2] * 10)  # the first 5 train
    given = ["--loss", "ProxyNCALoss", "--embedding_size", "24", "--data.validation", "0.4"]
    init = config.read(["--data", str(root), *given]).config["loss"]["init_args"]
    assert (init["num_classes"], init["embedding_size"]) == (3, 24)
    init = config.read(["--data", str(root), *given, "--loss.num_classes", "9"]).config["loss"]["init_args"]
    assert init["num_classes"] == 9
    assert config.read(["--print_config", *given]).config["loss"]["init_args"]["num_classes"] is None
    assert read("--loss", "MarginLoss")["loss"]["init_args"]["num_classes"] is None  # not needed


def test_the_losss_embedding_size_is_the_models(tmp_path):
    message = "^loss.embedding_size must be embedding_size, which is {}, got {}; leave loss.embedding_size out$"
    with pytest.raises(InputError, match=message.format(8, 7)):
        read("--loss", "DAMLLoss", "--loss.embedding_size", "7", "--embedding_size", "8")
    with pytest.raises(InputError, match=message.format(128, 7)):
        read("--loss", "DAMLLoss", "--loss.embedding_size", "7")
    tree = read("--loss", "DAMLLoss", "--loss.embedding_size", "8", "--embedding_size", "8")

    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(tree))  # with what was filled in
    other = read(str(file), "--embedding_size", "9")
    assert (other["embedding_size"], other["loss"]["init_args"]["embedding_size"]) == (9, 9)
    with pytest.raises(InputError, match=message.format(8, 9)):
        read(str(file), "--loss.embedding_size", "9")
    file.write_text("{loss: {class_path: DAMLLoss, embedding_size: 7}, embedding_size: 8}")
    with pytest.raises(InputError, match=message.format(8, 7)):
        read(str(file))


def test_what_is_written_reads_back_the_same(tmp_path):
    options = ("--schedule", "StepLR", "--schedule.step_size", "5", "--logger", "tensorboard", "--optimizer", "SGD")
    tree = read(*options)
    (tmp_path / "config.yaml").write_text(config.to_yaml(tree))
    assert config.read([str(tmp_path / "config.yaml")]).config == tree


MEMORY = ("--loss", "CrossBatchMemory")
CONTRASTIVE = (*MEMORY, "--loss.loss", "ContrastiveLoss")


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
        ([*MEMORY], "^loss.loss is missing: name one, such as ContrastiveLoss, with --loss.loss$"),
        ([*MEMORY, "--loss.loss", "null"], "^loss.loss is missing: name one"),
        ([*MEMORY, "--loss.loss", "ContrastveLoss"], "^unknown loss.loss 'ContrastveLoss'; did you mean Contrastive"),
        ([*MEMORY, "--loss.loss", "Linear"], "^unknown loss.loss 'Linear'; known: "),
        ([*MEMORY, "--loss.loss", "3"], "^unknown loss.loss '3'; known: "),
        ([*MEMORY, "--loss.loss", "torch.optim.SGD"], "^loss.loss: torch.optim.SGD is no class that can be used"),
        ([*MEMORY, "--loss.loss", "CrossBatchMemory"], "^loss.loss.loss is missing: name one"),
        ([*MEMORY, "--loss.loss", "ProxyNCALoss"], "^loss.loss.num_classes is missing, and ProxyNCALoss needs it"),
        ([*MEMORY, "--loss.loss.margin", "1"], "^loss.loss.margin needs a class to belong to: .* with --loss.loss$"),
        ([*CONTRASTIVE, "--loss.loss.margn", "1"], "^unknown key loss.loss.margn of ContrastiveLoss; did you mean"),
        ([*CONTRASTIVE, "--loss.loss.margin", "x"], "^loss.loss.margin expects a number, got x$"),
        (["--schedule", "StepLR"], "^schedule.step_size is missing, and StepLR needs it: give it with --schedule.step"),
        (["--sampler", "NPairSample"], "did you mean NPairSampler?"),
        (["--sampler.seed", "1"], "unknown key sampler.seed"),
        (["--optimizer", "Adma"], "did you mean Adam"),
        (["--optimizer", "null"], "^optimizer expects a value, such as its default AdamW, got null$"),
        (["--schedule.gamma", "1"], "schedule.gamma needs a class to belong to"),
        (["--loss", "no.such.Loss"], "loss: no.such.Loss cannot be imported"),
        (["--loss", "..Loss"], r"loss: \.\.Loss cannot be imported"),
        (["--levels", "[" * 2000], "levels: .* is not YAML"),
        (["--steps", "many"], "^steps expects a whole number, got many$"),
        (["--loss.alpha", "wide"], "^loss.alpha expects a number, got wide$"),
        (["--sampler.classes", "[1]"], r"^sampler.classes expects a whole number or null, got \[1\]$"),
        (["--logger", "foo"], "^logger expects one of tensorboard, wandb or null, got foo$"),
        (["--protocol.ks", "3"], r"^protocol.ks expects a list such as \[1, 2\], got 3$"),
        (["--loss", "DAMLLoss", "--loss.weights", "[1,2]"], r"^loss.weights expects a list of 3 values, got \[1, 2\]$"),
        (["--optimizer.betas", "[1]"], r"^optimizer.betas expects a list of 2 values, got \[1\]$"),
        (["--augment.mirror", "3"], "^augment.mirror expects true or false, got 3$"),
        (["--data.root.x", "1"], "data.root expects the name of a folder, got"),
        (["--data.cache.x", "1"], "data.cache expects the name of a folder, got"),
        (["--out.x", "1"], "out expects the name of a folder, got"),
        (["--data.cache", ""], "^data.cache expects the name of a folder, got ''; name one$"),
        (["--data.root", ""], "^data.root expects the name of a folder, got ''; name one$"),
        (["--data", ""], "^data.root expects the name of a folder, got ''; name one$"),
        (["--out", ""], "^out expects the name of a folder, got ''; name one$"),
        (["--data.cache", "~no-one/x"], r"^data.cache expects the name of a folder, got '~no-one/x' \(.*\); name"),
        (["--data", "~no-one/x"], r"^data.root expects the name of a folder, got '~no-one/x' \(.*\); name another$"),
        (["--out", "~no-one/x"], r"^out expects the name of a folder, got '~no-one/x' \(.*\); name another$"),
        (["--loss.alpha.x", "1"], "loss.alpha expects a number, got"),
        (["--schedule", "ReduceLROnPlateau"], "unknown schedule 'ReduceLROnPlateau'"),
        (["--schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau"], "is no class that can be used as one"),
        (["--loss", "torch.optim.SGD"], "loss: torch.optim.SGD is no class that can be used as one"),
        (["--overwrite", "--resume"], "give one of them"),
        (["--steps", "many", "--schedule", "CosineAnnealingLR"], "steps and warmup expect numbers, got many, 0"),
        (["--image.fit", "stretch"], "^image.fit expects one of squash, crop, pad, got stretch$"),
        (["--image", "28"], r"image has keys of its own \(image.size, image.resize, image.fit\); got '28'"),
        (["--steps"], "--steps expects a value"),
        (["--levels", "[block1"], r"levels: '\[block1' is not YAML"),
        (["--levels", "3"], "levels expects list or null, got 3"),
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
        (b"steps: " + b"[" * 2000, r"is not YAML: maximum recursion depth exceeded"),
        (b"levels: &a [*a]", "levels expects text or null, got"),
        (b"steps: !!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor for the tag"),
        (b"just text", "should hold keys and values, holds str"),
        (b"", "should hold keys and values, holds NoneType"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"setps: 3", "unknown key setps; did you mean steps?"),
        (b"loss: {class_path: AngularLoss, init_args: {alfa: 3}}", "did you mean loss.alpha?"),
        (b"augment: {mirorr: false}", "did you mean augment.mirror?"),
        (b"1: 2", "unknown key 1"),
        (b"loss.alpha: 1.2", "^loss.alpha: the keys of a file have no dots; write loss: {alpha: ...}$"),
        (b"schedule.: StepLR", "^schedule.: the keys of a file have no dots; write "),
        (b"schedule: {}", "schedule needs a class to belong to"),
        (b"loss: {init_args: 3}", "loss.init_args expects keys and values, got 3"),
        (b"steps: null", "steps expects a value, such as its default 1000, got null"),
        (b'data: {cache: "a\\0b"}', "^data.cache expects the name of a folder, got 'a.*null"),
        (b"loss: null", "^loss expects a value, such as its default RankedListLoss, got null$"),
        (b"sampler:", "^sampler expects a value, such as its default ClassBalancedSampler, got null$"),
        (b"optimizer: null", "^optimizer expects a value, such as its default AdamW, got null$"),
        (b"data: {cache: 3}", "^data.cache expects the name of a folder, got 3; name one$"),
        (b"image: {size: null}", "image.size expects a value, such as its default 64, got null"),
    ],
)
def test_mistakes_in_a_file(tmp_path, content, message):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(str(tmp_path / "c.yaml"))


def test_a_module_that_fails_as_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "failing_losses.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^loss: failing_losses.Loss cannot be imported \(division by zero\)$"):
        read("--loss", "failing_losses.Loss")


def test_no_pictures_is_an_error():
    with pytest.raises(InputError, match="no pictures: name a folder"):
        config.read([])


def test_help_names_every_key_and_no_foreign_class():
    text = config.help_text()
    for key in ("--data, --data.root", "--backbone, --backbone.name", "--image.size", "--augment.rotate", "--loss "):
        assert f"  {key}" in text
    for key in ("--protocol.ks", "--out", "--overwrite", "--resume", "--print_config"):
        assert f"\n  {key} " in text
    assert "Side in pixels of what the model sees" in text
    assert "torch.nn" not in text
    for line in text.splitlines():
        assert not line.startswith(("  --image ", "  --data ", "  --logger+"))  # no such options


def test_print_config_without_pictures_is_checked_and_complete():
    tree = config.read(["--print_config", "--schedule", "CosineAnnealingLR", "--steps", "20"]).config
    assert (tree["data"]["root"], tree["steps"], tree["schedule"]["init_args"]["T_max"]) == (None, 20, 20)
    with pytest.raises(InputError, match="steps expects a whole number, got abc"):
        config.read(["--print_config", "--steps", "abc"])


def test_a_runs_own_config_means_the_folder_where_it_lies(tmp_path):
    file = tmp_path / "moved" / "config.yaml"
    file.parent.mkdir()
    file.write_text(config.to_yaml(read("--out", "/elsewhere")))
    assert config.read([str(file)]).config["out"] == "/elsewhere"  # not a run's
    (file.parent / "metrics.jsonl").write_text("")
    assert config.read([str(file)]).config["out"] == str(tmp_path / "moved")
    assert config.read([str(file), "--out", "/other"]).config["out"] == "/other"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_config_of_the_project_is_valid_and_opens_with_its_command(file, make_folder):
    assert f"nearkin train configs/{file.parent.name}/{file.name}" in file.read_text().splitlines()[0]
    tree = config.read([str(file), "--data", str(make_folder([1] * 4))]).config
    assert yaml.safe_load(file.read_text()).keys() <= tree.keys()
