"""Why two pictures are near: which regions of each carry the cosine of their embeddings.

The gradient of their inner product by the last feature map, times the map, summed over channels: for average and max
pooling with a linear layer behind, as here, that is each region's own part of the product, exactly but for the bias.
Where a head is deeper it is the part to first order (cf. Selvaraju et al., "Grad-CAM", ICCV 2017).

Shape key: S = side of the pictures, h, w = sides of the feature map, of the largest of several, L = levels that are
compared by themselves, D = embedding size of one.
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
    """Of each region, its share of the cosine (h, w): 1 for the largest, 0 for what takes away from it."""

    query: NDArray[np.float32]
    hit: NDArray[np.float32]


def explain(model: Model, query: Picture, hit: Picture) -> Shares:
    """Find the regions of two pictures, decoded by the model's preprocessing, that make them similar."""
    pair = torch.from_numpy(np.stack([query, hit])).permute(0, 3, 1, 2)
    images = centre_crop(pair, model.architecture.image.size).to(model.device)
    parts = contributions(model, images).clamp_min(0)
    of_query, of_hit = (parts / parts.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).float().cpu().numpy()
    return Shares(of_query, of_hit)


def contributions(model: Model, images: Tensor) -> Tensor:
    """Of each region of two pictures (2, 3, S, S), its part of the cosine of their embeddings (2, h, w).

    Of a model whose levels each have the length 1, of the mean of the levels' cosines.
    """
    with torch.no_grad():
        maps = model.embedder.maps(images)
    for each in maps:
        each.requires_grad_()
    size = model.architecture.embedding_size if model.architecture.per_level_norm else model.architecture.width
    with torch.enable_grad():
        levels = model.embedder.embed_maps(maps).reshape(2, -1, size)  # (2, L, D)
        levels = levels / levels.detach().norm(dim=2, keepdim=True).clamp_min(1e-12)
        # Each picture's regions against the other's embedding, which is held as it is.
        cosine = (levels * levels.detach().flip(0)).sum() / levels.shape[1]
        slopes = torch.autograd.grad(cosine, maps)
    side = max(each.shape[-1] for each in maps)
    parts = torch.zeros(2, 1, side, side, device=images.device)
    for slope, each in zip(slopes, maps, strict=True):
        own = (slope * each.detach()).sum(dim=1, keepdim=True)
        smaller = (each.shape[-1] / side) ** 2  # a region shares its part out among those it is laid over
        parts = parts + smaller * F.interpolate(own, (side, side), mode="bilinear")
    return parts[:, 0]


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
