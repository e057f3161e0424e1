"""From a backbone's name and its weights' source to the module."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nearkin.errors import InputError, nearest
from nearkin.models.convnet import ConvNet
from nearkin.models.weights import fill, first_line, read_tensors


@dataclass(frozen=True)
class Backbone:
    """Which network looks at the pictures, and the weights it starts from.

    Args:
        name: `convnet`, `googlenet`, `bn_inception` (GoogLeNet V2), or `timm:<name>` for any model of timm.
        weights: `none` starts from random weights, `imagenet` from those that the model's authors published (fetched
            from the network), anything else is a file: safetensors, or a state dict saved by torch.
    """

    name: str = "convnet"
    weights: str = "none"

    def build(self) -> nn.Module:
        """The module, with `channels`, `mean` and `std`, mapping normalised pixels to features (N, C, h, w).

        Its `stages` and `features(pixels, stages)` give the feature maps on the way there.

        Raises:
            InputError: No such backbone; its weights cannot be had; the file does not fit it.
        """
        module = self._create()
        published = getattr(module, "weights_url", None)
        if self.weights == "imagenet" and published:  # timm has fetched its own
            fill(module, fetch(self.name, str(published)), f"the ImageNet weights of {self.name}")
        elif self.weights not in ("none", "imagenet"):
            fill(module, read_tensors(Path(self.weights)), self.weights)
        return module

    @property
    def pretrained(self) -> bool:
        """Whether the weights have been trained before."""
        return self.weights != "none"

    def _create(self) -> nn.Module:
        if self.name == "convnet":
            if self.weights == "imagenet":
                raise InputError(
                    "backbone convnet has no ImageNet weights; give another backbone, or --backbone.weights none"
                )
            return ConvNet()
        if self.name == "googlenet":
            from nearkin.models.googlenet import GoogLeNet

            return GoogLeNet()
        if self.name == "bn_inception":
            from nearkin.models.bn_inception import BNInception

            return BNInception()
        family, _, name = self.name.partition(":")
        if family == "timm":
            return create_timm(name, self.weights == "imagenet")
        known = ["convnet", "googlenet", "bn_inception", "timm:<name>"]
        raise InputError(f"unknown backbone {self.name!r}; {nearest(self.name, known)}")


def create_timm(name: str, pretrained: bool) -> nn.Module:
    import timm

    from nearkin.models.timm_backbone import TimmBackbone

    if not timm.is_model(name):
        raise InputError(
            f"unknown backbone timm:{name}; {nearest(f'timm:{name}', (f'timm:{each}' for each in timm.list_models()))}"
        )
    if not pretrained:
        return TimmBackbone(name)
    try:
        return TimmBackbone(name, pretrained=True)
    except Exception as error:  # the hub's client raises a different family of errors for every way to fail
        source = timm.get_pretrained_cfg(name)
        where = f"huggingface.co/{source.hf_hub_id}" if source and source.hf_hub_id else "timm's model page"
        raise not_fetched(f"timm:{name}", error, "model.safetensors", where) from error


def fetch(name: str, url: str) -> dict[str, Tensor]:
    """The tensors of a file that torch's hub keeps, downloaded if it is not there; its name holds its hash.

    Raises:
        InputError: It can be neither found nor downloaded, or is not what it should be.
    """
    try:
        state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:  # no network, no server, no space, another hash, a damaged copy
        raise not_fetched(name, error, url.rpartition("/")[2], url) from error
    return dict(state)


def not_fetched(name: str, error: Exception, file: str, where: str) -> InputError:
    return InputError(
        f"the ImageNet weights of {name} could not be fetched ({type(error).__name__}: {first_line(error)}); bring "
        f"{file} from {where} and name it: --backbone.weights FILE"
    )
