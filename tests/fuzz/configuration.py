"""Any YAML, and any command line, to the configuration reader: a configuration that can be read again, or one line."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nearkin.config", "nearkin.class_keys"]):
    from nearkin import config
    from nearkin.errors import InputError

PLACE = Path(tempfile.mkdtemp())
KEYS = [
    *config.leaves(config.defaults()),
    *("loss.alpha", "loss.loss", "loss.num_classes", "loss.loss.margin", "sampler.images", "optimizer.lr"),
    *("schedule.total_steps", "schedule.milestones", "backbone", "data", "image", "loss.class_path", "loss.init_args"),
]
VALUES = [
    *("null", "true", "-1", "0", "1e999", ".nan", "-.inf", "1" + "0" * 30, "0x10", "1_000", "1:30", "2001-01-01"),
    *("", " ", "'", "\n", "[]", "{}", "[1, x]", "{a: b}", "&a [*a]", "!!binary aa==", "!!set {a}", "? [a]", "[" * 2000),
    *("AngularLoss", "CrossBatchMemory", "NPairSampler", "SGD", "OneCycleLR", "timm:resnet18", "torch.nn.Linear"),
    *(".", "..x", "os.system", "torch.optim.Optimizer", "nearkin.losses", "{class_path: AngularLoss}"),
]


def look(data: bytes) -> None:
    if data[:1] < b"\x40":  # as it comes: a file, and behind a zero arguments
        content, *rest = data[1:].split(b"\0")
        arguments = [each.decode(errors="surrogateescape") for each in rest]
    else:
        drawn = atheris.FuzzedDataProvider(data[1:])
        content, arguments = b"{}", []
        for _ in range(drawn.ConsumeIntInRange(1, 5)):
            chosen = drawn.PickValueInList(VALUES) if drawn.ConsumeBool() else drawn.ConsumeUnicode(12)
            arguments += [f"--{drawn.PickValueInList(KEYS)}", chosen]
    file = PLACE / "some.yaml"
    file.write_bytes(content)
    try:
        found = config.read([str(file), *arguments, "--print_config"])
        file.write_text(config.to_yaml(found.config), encoding="utf-8")
    except InputError:
        return
    again = config.read([str(file), "--print_config"])
    assert config.to_yaml(again.config) == file.read_text(encoding="utf-8")


if __name__ == "__main__":
    atheris.Setup(sys.argv, look)
    atheris.Fuzz()
