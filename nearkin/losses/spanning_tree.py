"""Minimum spanning trees of the classes of a batch.

Prim, "Shortest Connection Networks and Some Generalizations", 1957; here one step grows the trees of all classes.

Shape key: N = batch size, C = number of classes, K = size of the largest class.
"""

import torch
from torch import Tensor


def spanning_trees(distance: Tensor, labels: Tensor) -> Tensor:
    """Return every sample's parent (N,) in a minimum spanning tree of its class.

    The first sample of each class in batch order is the root of its tree and its own parent, so a class of k samples
    has the k - 1 edges (i, parent of i) with parent of i ≠ i. Of edges of equal length any may be in the tree, those
    of length 0 too. At most K steps of O(N) time each; nothing is padded to K × K per class.

    K depends on the data: use this inside `known_gradient` only, which hides it from `torch.compile`.

    Args:
        distance: Symmetric, (N, N), N at least 1; only pairs of one class are looked at.
        labels: Class ids (N,).
    """
    sample = torch.arange(len(labels), device=labels.device)
    _, tree, size = torch.unique(labels.long(), return_inverse=True, return_counts=True)  # (C,), (N,), (C,)
    # Row c holds the samples of class c, going round again where it has fewer than K.
    start = size.cumsum(0) - size
    turn = torch.arange(int(size.max()), device=labels.device) % size[:, None]
    members = tree.argsort(stable=True)[start[:, None] + turn]  # (C, K)

    newest = members[:, 0]  # (C,), the sample that joined each tree last
    parent: Tensor = newest[tree]  # (N,), the nearest sample in the tree
    gap = distance[sample, parent]  # (N,), how far that is
    outside = sample != parent
    for _ in range(members.shape[1] - 2):  # of the last sample outside, the parent is known before it joins
        # A tree that is complete has no sample outside: it takes one in again, which changes nothing.
        nearest = gap.masked_fill(~outside, torch.inf)[members].argmin(dim=1, keepdim=True)
        newest = members.gather(1, nearest).squeeze(1)
        outside[newest] = False
        shortcut = distance[sample, newest[tree]]
        nearer = outside & (shortcut < gap)
        parent = torch.where(nearer, newest[tree], parent)
        gap = torch.where(nearer, shortcut, gap)
    return parent
