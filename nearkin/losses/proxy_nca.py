"""Proxy-NCA with one learned proxy per class.

Movshovitz-Attias et al., "No Fuss Distance Metric Learning Using Proxies", ICCV 2017. The equation number is that of
Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019.

Shape key: N = batch size, D = embedding size, C = number of classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, check_classes, inner_products, on_sphere


class ProxyNCALoss(nn.Module):
    """Pull each embedding to the proxy of its class and push it from all other proxies at once.

    The mean over the batch of d²(x, p_y) + log Σ_{z ≠ y} exp(-d²(x, p_z)), Eq. 5, d the Euclidean distance after
    embeddings and proxies have been put at norm `scale`; it can be negative. O(N C) memory. Proxies start as random
    unit vectors and are learned; only their direction counts.

    Args:
        num_classes: C. Labels are class ids from 0 to C - 1. With one class there is nothing to tell it from: 0.
        embedding_size: D.
        scale: Norm, above 0, of embeddings and proxies: squared distances end at 4 scale². 3 is what published code
            uses, and what a temperature of 1/9 is elsewhere.
        softmax: Count the class's own proxy in the sum too, as published code does, which makes the loss a
            cross-entropy. The equation leaves it out.

    Raises:
        ValueError: num_classes or embedding_size is below 1, or scale not above 0 and finite; a label is outside
            [0, num_classes), or the embeddings are not of that size.
    """

    def __init__(self, num_classes: int, embedding_size: int, scale: float = 3.0, softmax: bool = False) -> None:
        super().__init__()
        if num_classes < 1 or embedding_size < 1:
            raise ValueError(
                f"num_classes and embedding_size must be at least 1, got {num_classes} and {embedding_size}"
            )
        if not 0 < scale < torch.inf:
            raise ValueError(f"scale must be above 0 and finite, got {scale}")
        # At norm 1 a step of the optimizer turns a proxy by as much as it turns a unit embedding, whatever D is.
        self.proxies = nn.Parameter(F.normalize(torch.randn(num_classes, embedding_size)))
        self.scale = scale
        self.softmax = softmax
        self.normalize = True

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 for an empty batch."""
        x = check_batch(embeddings, labels)
        num_classes, size = self.proxies.shape
        if x.shape[1] != size:
            raise ValueError(f"embeddings must have embedding_size={size} columns, got {x.shape[1]}")
        check_classes(labels, num_classes)
        x, proxies = on_sphere(x), on_sphere(self.proxies.to(x.dtype))

        # -d² = 2 scale² cos - 2 scale², and the constant cancels between the two terms of Eq. 5.
        logits = 2 * self.scale**2 * inner_products(x, proxies)  # (N, C)
        if num_classes == 1:
            return 0 * logits.sum()
        own = labels.long()[:, None]
        others = logits if self.softmax else logits.scatter(1, own, -torch.inf)
        terms = others.logsumexp(dim=1) - logits.gather(1, own).squeeze(1)
        return terms.sum() / max(len(x), 1)
