"""GoogLeNet, as torchvision has it.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015; with batch norm, and with 3 x 3 convolutions in the
branches that are 5 x 5 in the paper (https://github.com/pytorch/vision/issues/906).

Shape key: N = batch size, S = side of the pictures, C = channels, h = side of a feature map.
"""

from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor, nn
from torchvision.models import GoogLeNet_Weights, googlenet


class GoogLeNet(nn.Module):
    """torchvision's googlenet without its classifiers.

    Maps normalised pixels (N, 3, S, S) to features (N, 1024, h, h), h about S / 32.

    torchvision normalises with ImageNet's means m and deviations s, and for these weights the network then undoes it
    (`transform_input`): with x = (p - m) / s, x · s / 0.5 + (m - 0.5) / 0.5 = (p - 0.5) / 0.5. So mean and std are 0.5.

    Stages bear torchvision's names. `maxpool3` (480 channels, h = S / 16), `maxpool4` (832, S / 32) and `inception5b`
    (1,024, S / 32) are the depths that answer to inception 3c, 4e and 5b of BN-Inception, whose halving modules stand
    in the place of those poolings.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    channels = 1024
    classifier = ("fc", "aux1", "aux2")
    weights_url: str = GoogLeNet_Weights.IMAGENET1K_V1.url

    def __init__(self) -> None:
        super().__init__()
        whole = googlenet(weights=None, aux_logits=False, init_weights=False)
        self.model = nn.Sequential()  # the children up to global pooling run one after the other
        for name, child in takewhile(lambda item: item[0] != "avgpool", whole.named_children()):
            self.model.add_module(name, child)
        self.stages = tuple(name for name, _ in self.model.named_children())

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model(pixels)
        return features

    def features(self, pixels: Tensor, stages: Sequence[str]) -> list[Tensor]:
        """The outputs (N, C, h, h) of some stages, in the order asked for."""
        found = {}
        for name, child in self.model.named_children():
            pixels = found[name] = child(pixels)
            if found.keys() >= set(stages):
                break
        return [found[name] for name in stages]
