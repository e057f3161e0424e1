"""Any image backbone of timm (https://github.com/huggingface/pytorch-image-models), by name."""

from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from nearkin.models.modes import evaluating


class TimmBackbone(nn.Module):
    """A timm model without its classifier.

    Maps normalised pixels (N, 3, S, S) to features (N, C, h, w). Models that end in no feature map of that layout
    (transformers) pool their tokens as their authors do and give h = w = 1.

    Args:
        name: A name that `timm.list_models()` knows, with or without a tag of pretrained weights.
        pretrained: Fetch those weights (network or local cache).

    Attributes:
        channels: C.
        mean, std: Of the pixels in [0, 1] that the model expects.
        stages: Names of the modules that timm's `feature_info` lists, shallow to deep: what `features_only` offers.
        classifier: How the names of those tensors begin that timm's files hold and the model here lacks.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.model = cast(Any, timm.create_model(name, pretrained=pretrained, num_classes=0))
        about = self.model.pretrained_cfg
        self.mean: tuple[float, ...] = tuple(about["mean"])
        self.std: tuple[float, ...] = tuple(about["std"])
        self.stages = tuple(str(stage["module"]) for stage in self.model.feature_info)
        layers = about["classifier"] or ()  # one layer, or several of a distilled model
        self.classifier = tuple(layer.split(".")[0] for layer in ([layers] if isinstance(layers, str) else layers))
        with evaluating(self):  # timm has no attribute that holds C for every family
            self.channels = int(self(torch.zeros(1, *about["input_size"])).shape[1])

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(pixels)
        if features.ndim == 4 and features.shape[1] == self.model.num_features:
            return features
        pooled: Tensor = self.model.forward_head(features, pre_logits=True)
        return pooled[:, :, None, None]

    def features(self, pixels: Tensor, stages: Sequence[str]) -> list[Tensor]:
        """The outputs (N, C, h, w) of some stages, in the order asked for.

        `timm.create_model(features_only=True)` gives the same, but renames the tensors of many models: a file of
        weights would fit the network with one head, and not with several.
        """
        depths = sorted(self.stages.index(name) for name in stages)
        maps = self.model.forward_intermediates(pixels, indices=depths, intermediates_only=True, stop_early=True)
        return [maps[depths.index(self.stages.index(name))] for name in stages]
