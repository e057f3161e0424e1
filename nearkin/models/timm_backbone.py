"""Any image backbone of timm (https://github.com/huggingface/pytorch-image-models), by name."""

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn


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
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.model = cast(Any, timm.create_model(name, pretrained=pretrained, num_classes=0))
        self.mean: tuple[float, ...] = tuple(self.model.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(self.model.pretrained_cfg["std"])
        self.channels = self._probe()

    def _probe(self) -> int:
        """C, found by running one blank picture: timm has no attribute that holds it for every family."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            channels = self(torch.zeros(1, *self.model.pretrained_cfg["input_size"])).shape[1]
        self.model.train(training)
        return int(channels)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(pixels)
        if features.ndim == 4 and features.shape[1] == self.model.num_features:
            return features
        pooled: Tensor = self.model.forward_head(features, pre_logits=True)
        return pooled[:, :, None, None]
