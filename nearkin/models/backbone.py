"""From a backbone's name and its weights' source to the module."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nearkin.errors import InputError, nearest
from nearkin.models.convnet import ConvNet


@dataclass(frozen=True)
class Backbone:
    """Which network looks at the pictures, and the weights it starts from.

    Args:
        name: `convnet`, or `timm:<name>` for any model of timm.
        weights: `none` starts from random weights, `imagenet` from those that the model's authors published (fetched
            from the network), anything else is a file: safetensors, or a state dict saved by torch.
    """

    name: str = "convnet"
    weights: str = "none"

    def build(self) -> nn.Module:
        """The module, with `channels`, `mean` and `std`, mapping normalised pixels to features (N, C, h, w).

        Raises:
            InputError: No such backbone; its weights cannot be had; the file does not fit it.
        """
        module = self._create()
        if self.weights not in ("none", "imagenet"):
            load_weights(module, Path(self.weights))
        return module

    @property
    def pretrained(self) -> bool:
        """Whether the weights have been trained before."""
        return self.weights != "none"

    def _create(self) -> nn.Module:
        if self.name == "convnet":
            if self.weights == "imagenet":
                raise InputError(
                    "backbone convnet has no ImageNet weights; give a timm:<name>, or --backbone.weights none"
                )
            return ConvNet()
        family, _, name = self.name.partition(":")
        if family == "timm":
            return create_timm(name, self.weights == "imagenet")
        raise InputError(f"unknown backbone {self.name!r}; {nearest(self.name, ['convnet', 'timm:<name>'])}")


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
        raise InputError(
            f"the ImageNet weights of timm:{name} could not be fetched ({type(error).__name__}); bring "
            f"model.safetensors from {where} and name it: --backbone.weights FILE"
        ) from error


def load_weights(module: nn.Module, file: Path) -> None:
    """Fill every tensor of `module` from a file; tensors of a classifier that the module lacks are passed over.

    Raises:
        InputError: The file is missing, cannot be read, lacks a tensor or has one of another shape.
    """
    if not file.is_file():
        raise InputError(f"backbone.weights expects none, imagenet or a file of weights, but there is no file {file}")
    found = read_tensors(file)
    target: nn.Module = getattr(module, "model", module)  # a wrapper's own prefix is in nobody's file
    wanted = target.state_dict()
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise InputError(
            f"{file} lacks {len(missing)} of the backbone's {len(wanted)} tensors (first: {missing[0]}); "
            "bring weights of the same model"
        )
    for key, tensor in wanted.items():
        if key in found and found[key].shape != tensor.shape:
            raise InputError(
                f"{file}: {key} should have shape {tuple(tensor.shape)}, has {tuple(found[key].shape)}; "
                "bring weights of the same model"
            )
    target.load_state_dict({key: found.get(key, wanted[key]) for key in wanted})


def read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
        return dict(state.get("state_dict", state))
    except Exception as error:  # every reader has its own errors for a damaged file
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read as a safetensors or torch state dict: {reason}") from error
