"""The ONNX file gives what the model gives, and says itself how to prepare pictures."""

import errno
import json
import logging
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from nearkin import export
from nearkin.data import Preprocessing, centre_crop
from nearkin.embed import Architecture, Model, Network, create_embedder, load
from nearkin.errors import InputError
from nearkin.export import export_onnx
from nearkin.models import Backbone

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

MODELS = {
    "convnet-avg": Architecture("convnet", 16, "avg", True, Preprocessing(32, 37, "crop")),
    "convnet-max-not-normalized": Architecture("convnet", 16, "max", False, Preprocessing(33)),
    "convnet-levels": Architecture("convnet", 8, "max", True, Preprocessing(40, 45, "pad"), ("block4", "block2")),
    "convnet-levels-each-normalized": Architecture(
        "convnet", 8, "avg", True, Preprocessing(35), ("block1", "block3"), per_level_norm=True
    ),
    "bn_inception-levels": Architecture(
        "bn_inception",
        8,
        "avg",
        True,
        Preprocessing(64, 72),
        ("inception_3c", "inception_4e", "inception_5b"),
        per_level_norm=True,
    ),
    "googlenet": Architecture("googlenet", 16, "max", True, Preprocessing(47)),
    "resnet18": Architecture("timm:resnet18", 16, "avg", True, Preprocessing(64, 72)),
}


@pytest.fixture
def pictures(shared):
    """100 photos of groceries: 160 pixels wide, 160 or 213 high."""
    files = sorted(shared("grocery").rglob("*.jpg"))
    return files[:: len(files) // 100][:100]


def squares_of(architecture, pictures):
    """What the network sees (n, 3, size, size)."""
    decoded = np.stack([architecture.image.decode(picture) for picture in pictures])
    return centre_crop(torch.from_numpy(decoded).permute(0, 3, 1, 2), architecture.image.size).contiguous()


def write_run(folder, architecture, squares):
    """A model with random weights, whose batch norms know the pictures: their embeddings differ."""
    torch.manual_seed(0)
    backbone = Backbone(architecture.backbone).build()
    embedder = create_embedder(
        backbone, architecture.embedding_size, architecture.pool, architecture.levels, architecture.image.size
    )
    for module in embedder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all batches, from the first one on
    with torch.no_grad():
        embedder.train()(squares)
    folder.mkdir(exist_ok=True)
    Model(embedder, architecture).save(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    noise = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    return write_run(tmp_path / "run", Architecture("convnet", 4, "avg", True, Preprocessing(16)), noise)


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(each, id=name, marks=[] if each.backbone == "convnet" else pytest.mark.slow)
        for name, each in MODELS.items()
    ],
)
def test_onnxruntime_gives_the_embeddings_of_the_model(architecture, pictures, tmp_path):
    squares = squares_of(architecture, pictures)
    run, file = write_run(tmp_path / "run", architecture, squares), tmp_path / "model.onnx"
    export_onnx(run, file)
    session = onnxruntime.InferenceSession(file)
    expected = load(run).embed(pictures)
    assert expected.std(axis=0).mean() > 0.01  # pictures differ by far more than the tolerance
    for n in (1, 100):
        (found,) = session.run(["embeddings"], {"images": squares[:n].numpy()})
        assert (found.dtype, found.shape) == (np.float32, (n, architecture.width))
        np.testing.assert_allclose(found, expected[:n], atol=1e-4, rtol=0)


def from_the_metadata(said, file):
    """A picture (3, size, size) as the metadata tell a stranger to prepare it, with Pillow alone."""
    assert (said["colours"], said["range"]) == ("RGB", [0, 255])
    assert (said["resampling"], said["antialias"]) == ("bilinear", True)
    side = said["resize"]
    resized = (side, side)
    picture = Image.open(file)
    picture.draft("RGB", said["jpeg_draft"])
    picture = picture.convert("RGB")
    if said["fit"] == "crop":
        shorter = min(picture.size)
        left, top = ((length - shorter) // 2 for length in picture.size)
        picture = picture.crop((left, top, left + shorter, top + shorter))
    if said["fit"] == "pad":
        resized = tuple(round(length * side / max(picture.size)) for length in picture.size)
    picture = picture.resize(resized, Image.Resampling.BILINEAR)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, tuple((side - length) // 2 for length in resized))
    left, top, width, height = said["crop"]
    return np.asarray(square.crop((left, top, left + width, top + height))).transpose(2, 0, 1)


@pytest.mark.parametrize(
    "image",
    [Preprocessing(90, 97), Preprocessing(90, 97, "crop"), Preprocessing(64, 67, "pad"), Preprocessing(32, 36)],
    ids=str,
)
def test_the_metadata_say_how_to_prepare_pictures(image, pictures, tmp_path):
    architecture = Architecture("convnet", 16, "avg", True, image)
    run = write_run(tmp_path / "run", architecture, squares_of(architecture, pictures))
    export_onnx(run, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    said = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["n", 3, said["size"], said["size"]])
    prepared = np.stack([from_the_metadata(said, file) for file in pictures])
    (found,) = session.run(None, {"images": prepared})
    # Pillow and PyTorch round some 4 pixels in 1,000 apart, by 1 of 255: 0.003 at most. JPEGs of which the whole is
    # decoded for a size of 32 come out 0.06 apart.
    np.testing.assert_allclose(found, load(run).embed(pictures), atol=5e-3, rtol=0)


def test_the_metadata_say_what_the_model_is(run, tmp_path):
    export_onnx(run, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    said = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert said["sha256"] == json.loads((run / "model.json").read_text())["sha256"]
    assert (said["metric"], said["normalized"], said["nearkin"]) == ("euclidean", True, "0.1.0")
    assert (said["size"], said["resize"], said["fit"], said["crop"]) == (16, 16, "squash", [0, 0, 16, 16])
    assert "resize to 16 x 16 pixels, whatever the aspect ratio" in said["preprocessing"][1]


def test_the_file_says_nothing_of_the_machine(run, tmp_path):
    export_onnx(run, tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    for path in (export.__file__, torch.__file__, str(tmp_path)):
        assert path.rpartition("/")[0].encode() not in content
    assert b"stack_trace" not in content


def test_the_command_prints_the_file_and_its_size_and_nothing_else(run, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_text("an older one")
    command = [sys.executable, "-m", "nearkin", "export", str(run), "--onnx", str(file)]  # with its own logs
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"model: {file} ({file.stat().st_size / 1e6:.1f} MB)\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "run"]


def test_logs_and_warnings_are_as_before(run, tmp_path, caplog):
    export_onnx(run, tmp_path / "model.onnx")
    logging.getLogger("nearkin").warning("heard")
    assert "heard" in caplog.text
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", stacklevel=1)


def refused(nearkin, *arguments):
    """The one line of a user's mistake."""
    status, out, err = nearkin("export", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err


def test_where_no_file_can_be_is_one_line(nearkin, run, tmp_path, monkeypatch):
    assert "--onnx; see nearkin export --help" in refused(nearkin, run)
    assert "holds no model.safetensors" in refused(nearkin, tmp_path, "--onnx", tmp_path / "model.onnx")
    assert f"{run} is a folder or a device; name a file" in refused(nearkin, run, "--onnx", run)
    missing = tmp_path / "missing"
    assert f"there is no folder {missing}; make it" in refused(nearkin, run, "--onnx", missing / "model.onnx")
    assert "there is no folder" in refused(nearkin, run, "--onnx", run / "model.json" / "model.onnx")
    assert "name a shorter one" in refused(nearkin, run, "--onnx", tmp_path / ("m" * 300))

    def read_only(path, content):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(export, "write_file", read_only)  # a test that runs as root could write anywhere
    line = refused(nearkin, run, "--onnx", tmp_path / "model.onnx")
    assert line == f"nearkin: {tmp_path / 'model.onnx'}: Read-only file system; make it accessible, or name another\n"


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_its_packages_it_says_what_to_install(nearkin, run, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(nearkin, run, "--onnx", tmp_path / "model.onnx")
    assert line == "nearkin: ONNX needs packages that are not here: pip install 'nearkin[onnx]'\n"


def test_a_model_beyond_what_onnx_holds_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LIMIT", 10**6)
    with pytest.raises(InputError, match="an ONNX file holds 0 GB of weights"):
        export_onnx(run, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def depends_on_its_values(network, images):
    means = images.float().mean((2, 3))
    return means if means.sum() > 0 else -means


def takes_two(network, images):
    return torch.zeros(2, 3) + images.float().mean((2, 3))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [(depends_on_its_values, "data-dependent"), (takes_two, "no other number of pictures")],
)
def test_a_network_that_onnx_cannot_express_is_one_line(nearkin, run, tmp_path, monkeypatch, forward, reason):
    monkeypatch.setattr(Network, "forward", forward)
    line = refused(nearkin, run, "--onnx", tmp_path / "model.onnx")
    assert line.startswith("nearkin: convnet cannot be written as ONNX (")
    assert reason in line
    assert not (tmp_path / "model.onnx").exists()
