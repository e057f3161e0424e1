"""Files of weights as others publish them, with random numbers in them."""

import urllib.request

import pytest
import torch

# The convolutions of bn_inception-52deb4733.pth: name, output channels, input channels, kernel; a line is a branch.
CONVOLUTIONS = """
conv1_7x7_s2 64 3 7
conv2_3x3_reduce 64 64 1; conv2_3x3 192 64 3

inception_3a_1x1 64 192 1
inception_3a_3x3_reduce 64 192 1; inception_3a_3x3 64 64 3
inception_3a_double_3x3_reduce 64 192 1; inception_3a_double_3x3_1 96 64 3; inception_3a_double_3x3_2 96 96 3
inception_3a_pool_proj 32 192 1

inception_3b_1x1 64 256 1
inception_3b_3x3_reduce 64 256 1; inception_3b_3x3 96 64 3
inception_3b_double_3x3_reduce 64 256 1; inception_3b_double_3x3_1 96 64 3; inception_3b_double_3x3_2 96 96 3
inception_3b_pool_proj 64 256 1

inception_3c_3x3_reduce 128 320 1; inception_3c_3x3 160 128 3
inception_3c_double_3x3_reduce 64 320 1; inception_3c_double_3x3_1 96 64 3; inception_3c_double_3x3_2 96 96 3

inception_4a_1x1 224 576 1
inception_4a_3x3_reduce 64 576 1; inception_4a_3x3 96 64 3
inception_4a_double_3x3_reduce 96 576 1; inception_4a_double_3x3_1 128 96 3; inception_4a_double_3x3_2 128 128 3
inception_4a_pool_proj 128 576 1

inception_4b_1x1 192 576 1
inception_4b_3x3_reduce 96 576 1; inception_4b_3x3 128 96 3
inception_4b_double_3x3_reduce 96 576 1; inception_4b_double_3x3_1 128 96 3; inception_4b_double_3x3_2 128 128 3
inception_4b_pool_proj 128 576 1

inception_4c_1x1 160 576 1
inception_4c_3x3_reduce 128 576 1; inception_4c_3x3 160 128 3
inception_4c_double_3x3_reduce 128 576 1; inception_4c_double_3x3_1 160 128 3; inception_4c_double_3x3_2 160 160 3
inception_4c_pool_proj 128 576 1

inception_4d_1x1 96 608 1
inception_4d_3x3_reduce 128 608 1; inception_4d_3x3 192 128 3
inception_4d_double_3x3_reduce 160 608 1; inception_4d_double_3x3_1 192 160 3; inception_4d_double_3x3_2 192 192 3
inception_4d_pool_proj 128 608 1

inception_4e_3x3_reduce 128 608 1; inception_4e_3x3 192 128 3
inception_4e_double_3x3_reduce 192 608 1; inception_4e_double_3x3_1 256 192 3; inception_4e_double_3x3_2 256 256 3

inception_5a_1x1 352 1056 1
inception_5a_3x3_reduce 192 1056 1; inception_5a_3x3 320 192 3
inception_5a_double_3x3_reduce 160 1056 1; inception_5a_double_3x3_1 224 160 3; inception_5a_double_3x3_2 224 224 3
inception_5a_pool_proj 128 1056 1

inception_5b_1x1 352 1024 1
inception_5b_3x3_reduce 192 1024 1; inception_5b_3x3 320 192 3
inception_5b_double_3x3_reduce 192 1024 1; inception_5b_double_3x3_1 224 192 3; inception_5b_double_3x3_2 224 224 3
inception_5b_pool_proj 128 1024 1
"""


@pytest.fixture(scope="session")
def convolutions():
    """Name -> (output channels, input channels, kernel)."""
    rows = [row.split() for row in CONVOLUTIONS.replace(";", "\n").splitlines() if row.strip()]
    return {name: (int(after), int(before), int(kernel)) for name, after, before, kernel in rows}


@pytest.fixture(scope="session")
def published(convolutions):
    """All tensors of that file: batch norms with a leading axis, without a count of batches; the classifier last."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (after, before, kernel) in convolutions.items():
        scale = (2 / (before * kernel**2)) ** 0.5
        tensors[f"{name}.weight"] = scale * torch.randn(after, before, kernel, kernel, generator=random)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(after, generator=random)
        tensors[f"{name}_bn.weight"] = 0.5 + torch.rand(1, after, generator=random)
        tensors[f"{name}_bn.bias"] = 0.5 * torch.randn(1, after, generator=random)
        tensors[f"{name}_bn.running_mean"] = 0.5 * torch.randn(1, after, generator=random)
        tensors[f"{name}_bn.running_var"] = 0.1 + torch.rand(1, after, generator=random)
    tensors["last_linear.weight"] = torch.randn(1000, 1024, generator=random)
    tensors["last_linear.bias"] = torch.randn(1000, generator=random)
    return tensors


@pytest.fixture(scope="session")
def published_file(published, tmp_path_factory):
    """That file, in the format that torch wrote before its version 1.6."""
    file = tmp_path_factory.mktemp("published") / "bn_inception-52deb4733.pth"
    torch.save(published, file, _use_new_zipfile_serialization=False)
    return file


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Nothing can be reached, and nothing was fetched before; gives the empty folder where torch's hub keeps files."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    urllib.request.install_opener(None)  # urllib keeps the proxies that it saw at its first request
    yield tmp_path / "torch" / "hub" / "checkpoints"
    urllib.request.install_opener(None)
