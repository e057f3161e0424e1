"""Spectral clustering loss, "Spectral Clust" in the tables of later papers.

Law, Urtasun and Zemel, "Deep Spectral Clustering Learning", ICML 2017.

Shape key: N = batch size, D = embedding size, C = number of classes in the batch, R = rank of the embeddings.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, known_gradient, on_sphere


class SpectralClusteringLoss(nn.Module):
    """Let the embeddings span the classes, as the relaxed solution of spectral clustering.

    With J (N, C) the membership in the classes, each column scaled to unit length, and Q (N, R) an orthonormal basis of
    the columns of the embeddings X (N, D), the loss is C - |Qᵀ J|²: the part of J, in [0, C], that no linear map of the
    embeddings reproduces. Its gradient is -2 (I - X X⁺) J (X⁺ J)ᵀ. The loss is the same for X times any number,
    so that the gradient grows as X shrinks.

    A batch of N <= D embeddings in general position spans everything: loss and gradient are 0, and the module warns
    once. The paper's batch is 18 classes of 70. Where the rank is below N and D, the gradient is that at constant rank;
    singular values up to max(N, D) machine epsilons (of the type of the embeddings, float32 if in half precision)
    times the largest are 0 for that. Everything is computed in float64, as a pseudo-inverse loses the digits of the
    condition number. O(N D (D + C)) time and O(N (D + C)) memory.

    Args:
        normalize: Put the embeddings on the unit sphere first.
    """

    def __init__(self, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self._warned = False

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where the embeddings span the classes."""
        x = check_batch(embeddings, labels)
        if not torch.compiler.is_compiling():
            self._warn_if_small(*x.shape)
        if self.normalize:
            x = on_sphere(x)
        return spectral_clustering(x, labels)

    def _warn_if_small(self, n: int, dim: int) -> None:
        if n > dim or self._warned:
            return
        self._warned = True
        warnings.warn(
            "SpectralClusteringLoss takes more samples than dimensions, "
            f"got {n} samples of {dim}: loss and gradient are 0 unless the samples are linearly dependent; "
            f"use a batch of more than {dim}, or a smaller embedding",
            stacklevel=5,  # the caller of the module
        )


@known_gradient
def spectral_clustering(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return C - |Qᵀ J|², and its gradient by the embeddings (N, D)."""
    classes = torch.unique(labels, return_inverse=True)[1]
    membership = F.one_hot(classes).double()
    membership /= membership.sum(dim=0).sqrt()  # J (N, C)

    u, singular, vh = torch.linalg.svd(x.double(), full_matrices=False)
    rank = int((singular > max(x.shape) * torch.finfo(x.dtype).eps * singular[0]).sum())
    basis = u[:, :rank]  # Q (N, R)
    spanned = basis.T @ membership  # (R, C)
    residual = membership - basis @ spanned  # (I - X X⁺) J (N, C)
    if rank == len(x):
        residual.zero_()  # but for rounding
    regression = vh[:rank].T @ (spanned / singular[:rank, None])  # X⁺ J (D, C)
    # |J|² = C, so that C - |Qᵀ J|² = |J - Q Qᵀ J|², which does not cancel.
    return residual.square().sum().to(x.dtype), (-2 * residual @ regression.T).to(x.dtype)
