"""GoogLeNet V2, also called BN-Inception.

Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
ICML 2015.

This is the network of the ImageNet weights that most papers of the field start from: trained in Caffe by Xiong et al.,
converted for PyTorch by Cadene's pretrainedmodels, `bn_inception-52deb4733.pth`. Modules bear the names of that file,
and where it departs from the paper's table, so does this: every convolution has a bias, the first one is not separable,
and the pool projections of 4c and 4d are 128 wide instead of 96, so that 4c, 4d and 4e end in 608, 608 and 1,056
channels instead of 576, 576 and 1,024. Pooling rounds sizes up, as Caffe does, and average pooling counts the padding.

Shape key: N = batch size, S = side of the pictures, C = channels, h = side of a feature map.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INCEPTIONS = {
    # 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3, pool projection; without the first and the last, the
    # module halves the map and passes its input through a max pool
    "inception_3a": (64, 64, 64, 64, 96, 32),
    "inception_3b": (64, 64, 96, 64, 96, 64),
    "inception_3c": (0, 128, 160, 64, 96, 0),
    "inception_4a": (224, 64, 96, 96, 128, 128),
    "inception_4b": (192, 96, 128, 96, 128, 128),
    "inception_4c": (160, 128, 160, 128, 160, 128),
    "inception_4d": (96, 128, 192, 160, 192, 128),
    "inception_4e": (0, 128, 192, 192, 256, 0),
    "inception_5a": (352, 192, 320, 160, 224, 128),
    "inception_5b": (352, 192, 320, 192, 224, 128),
}


class BNInception(nn.Module):
    """Map normalised pixels (N, 3, S, S), RGB, to features (N, 1024, h, h), h = (S + 1) // 32.

    The weights are for blue, green, red in 0 to 255, less (104, 117, 128). `mean` and `std` give that range and those
    means, in the order red, green, blue; the colours change places here.

    Raises:
        ValueError: S is such that the branches of a halving module would differ in size, or nothing would be left.
            Good are 32 k - 1 to 32 k + 6: 32, 64, 224, 227, 256.
    """

    mean = (128 / 255, 117 / 255, 104 / 255)
    std = (1 / 255, 1 / 255, 1 / 255)
    channels = 1024
    stages = tuple(INCEPTIONS)
    classifier = ("last_linear",)
    weights_url = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"

    def __init__(self) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        channels = 192
        for name, (one, reduce, three, double_reduce, double, project) in INCEPTIONS.items():
            stride = 1 if one else 2
            if one:
                self._add(f"{name}_1x1", channels, one, 1)
            self._add(f"{name}_3x3_reduce", channels, reduce, 1)
            self._add(f"{name}_3x3", reduce, three, 3, stride)
            self._add(f"{name}_double_3x3_reduce", channels, double_reduce, 1)
            self._add(f"{name}_double_3x3_1", double_reduce, double, 3)
            self._add(f"{name}_double_3x3_2", double, double, 3, stride)
            if project:
                self._add(f"{name}_pool_proj", channels, project, 1)
            channels = one + three + double + (project or channels)

    def _add(self, name: str, before: int, after: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(before, after, kernel, stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(after))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.features(pixels, self.stages[-1:])[0]

    def features(self, pixels: Tensor, stages: Sequence[str]) -> list[Tensor]:
        """The outputs (N, C, h, h) of some inception modules, in the order asked for."""
        check_side(pixels)
        x = self._unit("conv1_7x7_s2", pixels.flip(1))
        x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        x = self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", x))
        x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        found = {}
        for name in self.stages:
            x = found[name] = self._inception(name, x)
            if found.keys() >= set(stages):
                break
        return [found[name] for name in stages]

    def _inception(self, name: str, x: Tensor) -> Tensor:
        three = self._unit(f"{name}_3x3", self._unit(f"{name}_3x3_reduce", x))
        double = self._unit(f"{name}_double_3x3_1", self._unit(f"{name}_double_3x3_reduce", x))
        double = self._unit(f"{name}_double_3x3_2", double)
        if not INCEPTIONS[name][0]:
            return torch.cat([three, double, F.max_pool2d(x, 3, stride=2, ceil_mode=True)], dim=1)
        pool = F.max_pool2d if name == "inception_5b" else F.avg_pool2d
        projected = self._unit(f"{name}_pool_proj", pool(x, 3, stride=1, padding=1))
        return torch.cat([self._unit(f"{name}_1x1", x), three, double, projected], dim=1)

    def _unit(self, name: str, x: Tensor) -> Tensor:
        """Convolution, batch norm, ReLU."""
        return F.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)), inplace=True)


def check_side(pixels: Tensor) -> None:
    for side in pixels.shape[2:]:
        before_halving = (side + 1) // 2 // 4  # after the first convolution and two poolings
        if not before_halving or before_halving % 4:
            raise ValueError(f"bn_inception takes sides of 32 k - 1 to 32 k + 6 pixels, such as 224 or 227, got {side}")
