"""Why two pictures are near: which regions of each carry the inner product of their embeddings.

The gradient of the inner product by the last feature map, times the map, summed over channels: for average and max
pooling with a linear layer behind, as here, that is each region's own share of the product, exactly but for the bias.
Where a head is deeper it is the share to first order (cf. Selvaraju et al., "Grad-CAM", ICCV 2017).

Shape key: h, w = sides of the feature map, of the largest of several.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nearkin.data import centre_crop
from nearkin.data.images import Picture
from nearkin.data.preprocessing import Preprocessing
from nearkin.embed import Model


class Shares(NamedTuple):
    """Of each region, its share of the inner product (h, w): 1 for the largest, 0 for what takes away from it."""

    query: NDArray[np.float32]
    hit: NDArray[np.float32]


def explain(model: Model, query: Picture, hit: Picture) -> Shares:
    """Find the regions of two pictures, decoded by the model's preprocessing, that make them similar."""
    pair = torch.from_numpy(np.stack([query, hit])).permute(0, 3, 1, 2)
    images = centre_crop(pair, model.architecture.image.size).to(model.device)
    with torch.enable_grad():
        maps = [each.detach().requires_grad_() for each in model.embedder.maps(images)]
        embeddings = model.embedder.embed_maps(maps)
        # Each picture's regions against the other's embedding, which is held as it is.
        product = (embeddings * F.normalize(embeddings.detach()).flip(0)).sum()
        slopes = torch.autograd.grad(product, maps)
    side = max(each.shape[-1] for each in maps)
    share = sum(
        (F.interpolate((slope * each.detach()).sum(dim=1, keepdim=True), (side, side), mode="bilinear"))
        for slope, each in zip(slopes, maps, strict=True)
    )
    assert isinstance(share, Tensor)
    share = share[:, 0].clamp_min(0)
    share = share / share.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    of_query, of_hit = share.float().cpu().numpy()
    return Shares(of_query, of_hit)


def region(image: Preprocessing, width: int, height: int) -> tuple[float, float, float, float]:
    """The part of a picture that the model sees: left, top, width and height as shares of the picture's sides.

    With `fit="pad"` it reaches beyond the picture.
    """
    across, down = 1.0, 1.0
    if image.fit == "crop":
        across, down = min(width, height) / width, min(width, height) / height
    elif image.fit == "pad":
        across, down = max(width, height) / width, max(width, height) / height
    kept = image.size / image.side
    across, down = across * kept, down * kept
    return (1 - across) / 2, (1 - down) / 2, across, down
