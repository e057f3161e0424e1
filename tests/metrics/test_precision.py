import pytest
import torch

from nearkin.metrics.precision import full_precision

BACKENDS = (torch.backends.mkldnn, torch.backends.cuda)


@pytest.fixture
def lowered():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def settings():
    return [backend.matmul.fp32_precision for backend in BACKENDS]


@pytest.mark.usefixtures("lowered")
def test_products_are_exact_inside_and_as_before_outside():
    x = torch.full((1, 1), 1 + 2**-20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(torch.device("cpu")):
            assert settings() == ["ieee", "ieee"]
            assert not torch.is_autocast_enabled("cpu")
            assert (x @ x).item() == pytest.approx(1 + 2**-19, abs=2**-22)
        assert torch.is_autocast_enabled("cpu")
        assert settings() == ["bf16", "tf32"]


@pytest.mark.usefixtures("lowered")
def test_an_error_inside_leaves_the_settings_as_they_were():
    with pytest.raises(KeyError), full_precision(torch.device("cpu")):
        raise KeyError
    assert settings() == ["bf16", "tf32"]
