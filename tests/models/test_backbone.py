import http.server
import threading

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from nearkin.errors import InputError
from nearkin.models import Backbone, BNInception, ConvNet
from nearkin.models.weights import fill


@pytest.mark.parametrize("form", ["pt", "pth of a training script", "safetensors"])
def test_weights_from_a_file(tmp_path, form):
    torch.manual_seed(1)
    source = timm.create_model("resnet10t", num_classes=7)  # its classifier is not wanted and does not matter
    file = tmp_path / f"weights.{form.split()[0]}"
    if form == "safetensors":
        save_file(source.state_dict(), file)
    else:
        torch.save(source.state_dict() if form == "pt" else {"state_dict": source.state_dict(), "epoch": 3}, file)
    built = Backbone("timm:resnet10t", str(file)).build()
    wanted = source.state_dict()
    assert all(torch.equal(value, wanted[key.removeprefix("model.")]) for key, value in built.state_dict().items())


def test_classifiers_and_computed_buffers_of_timms_files_do_not_matter(tmp_path):
    source = timm.create_model("levit_128s")
    tensors = source.state_dict() | dict(source.named_buffers())
    assert len(tensors) > len(source.state_dict()) > len(timm.create_model("levit_128s", num_classes=0).state_dict())
    torch.save(tensors, tmp_path / "weights.pt")
    built = Backbone("timm:levit_128s", str(tmp_path / "weights.pt")).build()
    assert all(torch.equal(value, tensors[key.removeprefix("model.")]) for key, value in built.state_dict().items())


def test_a_file_that_does_not_fit_is_refused_with_one_line_that_lists_why(tmp_path):
    tensors = ConvNet().state_dict()
    for key in [key for key in tensors if key.startswith("blocks.2")]:
        tensors["other" + key] = tensors.pop(key)
    del tensors["blocks.4.weight"]
    tensors["blocks.0.weight"] = torch.zeros(8, 3, 3, 3)
    tensors["blocks.6.bias"] = torch.zeros(2, 64)
    file = tmp_path / "weights.pt"
    torch.save(tensors, file)
    with pytest.raises(InputError) as error:
        Backbone("convnet", str(file)).build()
    assert str(error.value) == (
        f"{file} does not fit the network, which has 24 tensors: "
        "5 missing (blocks.2.weight, blocks.2.bias, blocks.2.running_mean, blocks.2.running_var, blocks.4.weight), "
        "5 unknown (otherblocks.2.weight, otherblocks.2.bias, otherblocks.2.running_mean, otherblocks.2.running_var, "
        "otherblocks.2.num_batches_tracked), "
        "2 of another shape (blocks.0.weight is (8, 3, 3, 3), should be (32, 3, 3, 3), "
        "blocks.6.bias is (2, 64), should be (64,)); bring weights of the same model"
    )


def test_a_long_list_of_faults_ends():
    with pytest.raises(InputError, match=r"tensors: 23 unknown \(0, 1, 2, .*, 18, 19 and 3 more\);"):
        fill(ConvNet(), {**ConvNet().state_dict(), **{str(i): torch.zeros(1) for i in range(23)}}, "FILE")


def test_values_that_no_network_can_have_are_refused():
    tensors = ConvNet().state_dict()
    fill(ConvNet(), {key: tensor.half() for key, tensor in tensors.items()}, "FILE")
    tensors["blocks.0.weight"][0, 0, 0, 0] = torch.nan
    tensors["blocks.2.bias"][3] = -torch.inf
    tensors["blocks.4.weight"] = torch.full((64, 32, 3, 3), 1e300, dtype=torch.float64)  # beyond the module's floats
    tensors["blocks.6.bias"] = torch.zeros_like(tensors["blocks.6.bias"], dtype=torch.int8)
    tensors["blocks.2.weight"] = torch.zeros_like(tensors["blocks.2.weight"], dtype=torch.bool)
    with pytest.raises(InputError) as error:
        fill(ConvNet(), tensors, "FILE")
    assert str(error.value) == (
        "FILE does not fit the network, which has 24 tensors: "
        "2 not of floating point (blocks.2.weight is bool, blocks.6.bias is int8), "
        "3 NaN or infinite (blocks.0.weight, blocks.2.bias, blocks.4.weight); bring weights of the same model"
    )


@pytest.mark.parametrize("name", ["convnet", "bn_inception", "googlenet", "timm:resnet10t"])
def test_every_backbone_is_strict(name):
    module = Backbone(name).build()
    tensors = getattr(module, "model", module).state_dict()
    key = list(tensors)[7]
    fill(module, tensors, "FILE")
    with pytest.raises(InputError, match=rf"^FILE .* tensors: 1 missing \({key}\);"):
        fill(module, {name: tensor for name, tensor in tensors.items() if name != key}, "FILE")
    with pytest.raises(InputError, match=rf"tensors: 1 unknown \({key}_too\);"):
        fill(module, {**tensors, f"{key}_too": tensors[key]}, "FILE")
    with pytest.raises(InputError, match=rf"tensors: 1 of another shape \({key} is .*, should be .*\);"):
        fill(module, {**tensors, key: torch.zeros(*tensors[key].shape, 2)}, "FILE")


@pytest.mark.parametrize("kind", ["text", "no tensors", "empty"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, kind):
    file = tmp_path / "weights.pt"
    if kind == "no tensors":
        torch.save([torch.zeros(3)], file)
    else:
        file.write_text("hello" if kind == "text" else "")
    with pytest.raises(InputError, match=r"cannot be read as a safetensors or torch state dict: .") as error:
        Backbone("convnet", str(file)).build()
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"there is no file nowhere\.pt"):
        Backbone("convnet", "nowhere.pt").build()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "expected a dictionary of tensors, found Tensor; save module.state_dict()"),
        ([torch.zeros(3)], "expected a dictionary of tensors, found list; save module.state_dict()"),
        ({"state_dict": 3}, "expected a dictionary of tensors, found int; save module.state_dict()"),
        (
            nn.Linear(2, 2),
            "expected tensors and plain values, as in a state_dict, found an object of torch.nn.modules.linear.Linear",
        ),
        (
            {"model": ConvNet().state_dict(), "best": torch.tensor(0.5), "epoch": 3},
            "expected tensors, found a dictionary under model; save the one that is the network by itself",
        ),
        (
            {"epoch": 3, "optimizer": {"state": {}}},
            "expected a dictionary of tensors, found none under its keys (epoch, optimizer)",
        ),
    ],
)
def test_a_file_of_something_else_says_what_it_holds(tmp_path, content, message):
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    with pytest.raises(InputError) as error:
        Backbone("convnet", str(file)).build()
    assert str(error.value) == f"{file} cannot be read as a safetensors or torch state dict: {message}"


def test_what_is_no_tensor_is_passed_over(tmp_path):
    tensors = ConvNet().state_dict()
    torch.save({**tensors, "epoch": 3, "average": {"blocks.0.weight": torch.zeros(1)}}, tmp_path / "weights.pt")
    built = Backbone("convnet", str(tmp_path / "weights.pt")).build()
    assert all(torch.equal(value, tensors[key]) for key, value in built.state_dict().items())
    torch.save({**tensors, "blocks.0.weight": 3}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"1 missing \(blocks.0.weight\);"):
        Backbone("convnet", str(tmp_path / "weights.pt")).build()


class Opener:
    def __reduce__(self):
        return (open, ("/tmp/nearkin-was-here", "w"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"blocks.0.weight": Opener()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="cannot be read"):
        Backbone("convnet", str(tmp_path / "evil.pt")).build()


def test_imagenet_weights_that_cannot_be_fetched_say_what_to_bring(no_network):
    with pytest.raises(
        InputError,
        match=r"ImageNet weights of bn_inception could not be fetched \(URLError: .*\); bring "
        r"bn_inception-52deb4733.pth from http://data.lip6.fr/.*--backbone.weights FILE",
    ):
        Backbone("bn_inception", "imagenet").build()
    with pytest.raises(
        InputError,
        match=r"bring googlenet-1378be20.pth from https://download.pytorch.org/models/googlenet-1378be20.pth",
    ):
        Backbone("googlenet", "imagenet").build()
    with pytest.raises(InputError, match="convnet has no ImageNet weights"):
        Backbone("convnet", "imagenet").build()


def test_imagenet_weights_of_timm_that_cannot_be_fetched_say_what_to_bring(monkeypatch, tmp_path):
    # what the variables of the same names set when the package is imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"bring model.safetensors from huggingface.co/timm/resnet10t.*--backbone.weights FILE"
    ):
        Backbone("timm:resnet10t", "imagenet").build()


def test_random_weights_and_files_fetch_nothing(no_network, published_file):
    Backbone("bn_inception").build()
    Backbone("googlenet").build()
    Backbone("bn_inception", str(published_file)).build()
    assert not no_network.exists()


def test_what_was_fetched_before_is_used(no_network, published, published_file):
    no_network.mkdir(parents=True)
    (no_network / published_file.name).symlink_to(published_file)
    built = Backbone("bn_inception", "imagenet").build()
    assert torch.equal(built.inception_5b_1x1.weight, published["inception_5b_1x1.weight"])


def test_a_download_with_another_hash_is_refused(monkeypatch, tmp_path, published_file):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, directory=str(published_file.parent), **keywords)

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{published_file.name}"
        monkeypatch.setattr(BNInception, "weights_url", url)
        with pytest.raises(InputError, match=r"could not be fetched \(RuntimeError: invalid hash value"):
            Backbone("bn_inception", "imagenet").build()
        server.shutdown()
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("googlenett", "googlenet"), ("bn_inceptoin", "bn_inception"), ("timm:resnet81", "timm:resnet18")],
)
def test_an_unknown_backbone_names_the_nearest(name, hint):
    with pytest.raises(InputError, match=rf"unknown backbone '?{name}'?; did you mean {hint}"):
        Backbone(name).build()
