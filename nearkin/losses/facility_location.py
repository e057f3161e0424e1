"""Facility location loss, "Struct Clust" in the tables of later papers.

Song et al., "Deep Metric Learning via Facility Location", CVPR 2017. Algorithms are that paper's; equations are those
of RLL: Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019.

Shape key: N = batch size, D = embedding size, C = number of classes in the batch, which is that of medoids,
M = number of groupings compared at once.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nearkin.losses.pairs import FLOOR, check_batch, distances, known_gradient, on_sphere

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

SWEEPS = 5


class FacilityLocationLoss(nn.Module):
    """Let the grouping by class score higher than any other, by a margin that grows with how much the two differ.

    Any C samples of the batch, as medoids, group it: a medoid belongs to itself, any other sample to the nearest
    medoid. The score F of a grouping is minus the sum of the Euclidean distances, not squared, from samples to their
    medoids; F(y) of the classes takes the best medoid of each. The loss is
    max(0, F(ŷ) + gamma (1 - NMI(y, ŷ)) - F(y)), RLL Eq. 6-7, a sum over the batch, with the grouping ŷ that makes it
    largest. NMI is I / sqrt(H(y) H(ŷ)), and 1 for a single class.

    ŷ is searched for, not always found. Algorithm 1 adds medoids one by one, each the sample with which
    F + gamma (1 - NMI) is largest. Algorithm 2 refines them in five sweeps. A sweep groups the batch; then, medoid by
    medoid in the order in which they were added, it moves the medoid to that member of its group for which
    gamma (1 - NMI), of the batch grouped anew, less the distances to the members is largest. The members stay the
    same throughout the sweep.

    The search tells distances apart to nine digits of the largest. Among equals it takes the sample with the smallest
    sum of distances to all others, then the first of the batch. The groupings are held constant: the gradient goes
    through the distances to the medoids, and is 0 at the kink and at a distance of 0.

    Computed in float64. The search runs on the CPU, being a chain of small steps: O(C N (N + C)) time and O(N²) memory,
    about 15 ms for 128 samples of 32 classes and 40 ms for 180 of 60 on one core.

    Args:
        gamma: Weight of 1 - NMI, at least 0.
        normalize: Put the embeddings on the unit sphere first, as the paper does.

    Raises:
        ValueError: gamma is negative or not finite.
    """

    def __init__(self, gamma: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be at least 0 and finite, got {gamma}")
        self.gamma = gamma
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where the best grouping is the classes."""
        x = check_batch(embeddings, labels)
        # Two ends of a pair are equally good medoids, so ties are common. In float32, rounding would decide them.
        exact = x.double()
        if self.normalize:
            exact = on_sphere(exact)
        return facility_location(distances(exact), labels, self.gamma).to(x.dtype)


@known_gradient
def facility_location(distance: Tensor, labels: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return RLL Eq. 6, and its gradient by the distances (N, N) with both groupings held constant."""
    true, found, nmi = _medoids(distance.numpy(force=True), labels.numpy(force=True), gamma)
    true_medoid = torch.from_numpy(true)[:, None].to(distance.device)  # (N, 1)
    found_medoid = torch.from_numpy(found)[:, None].to(distance.device)
    value = (distance.gather(1, true_medoid) - distance.gather(1, found_medoid)).sum() + gamma * (1 - nmi)
    active = (value > 0).to(distance.dtype).expand(len(distance), 1)
    gradient = torch.zeros_like(distance).scatter_add_(1, true_medoid, active).scatter_add_(1, found_medoid, -active)
    return value.relu(), gradient


def _medoids(distance: Floats, labels: npt.NDArray[np.generic], gamma: float) -> tuple[Integers, Integers, float]:
    """Return every sample's medoid in its class (N,) and in the grouping found (N,), and the NMI of the two."""
    # Whole numbers: their sums are exact in any order, so that equal choices score equally.
    unit = max(distance.max(), FLOOR) / 2**30
    gamma /= unit
    d = np.round(distance / unit)
    # The best first: argmin and argmax take the first among equals.
    order = d.sum(axis=1).argsort(kind="stable")
    d = d[order][:, order]
    agreement = _Agreement(labels[order])

    classes = agreement.classes
    same = classes[:, None] == classes
    within = np.where(same, (d * same).sum(axis=1), np.inf)  # (N, N), sample by medoid
    true = within.argmin(axis=1)

    # Medoid by sample, as whole numbers too, without ties within a column; a medoid is nearest to itself.
    far = d * len(d) + np.arange(len(d))[:, None]
    np.fill_diagonal(far, -1)
    medoids = _refine(_greedy(d, far, agreement, gamma), d, far, agreement, gamma)
    owner = far[medoids].argmin(axis=0)
    nmi = agreement.nmi(np.zeros((1, len(d)), dtype=bool), owner)

    found = medoids[owner]
    back = order.argsort()
    return order[true][back], order[found][back], float(nmi[0])


def _greedy(d: Floats, far: Floats, agreement: "_Agreement", gamma: float) -> Integers:
    """Algorithm 1: add the medoid (of C) with which the score is largest, all N candidates at once."""
    n = len(d)
    medoids = np.zeros(agreement.count, dtype=np.int64)
    owner = np.zeros(n, dtype=np.int64)
    bound, cost = np.full(n, np.inf), np.full(n, np.inf)  # far and d to the nearest medoid yet
    for position in range(len(medoids)):
        wins = far < bound  # (N, N), candidate by sample
        score = gamma * (1 - agreement.nmi(wins, owner)) - np.minimum(d, cost).sum(axis=1)
        score[medoids[:position]] = -np.inf
        medoid = score.argmax()
        medoids[position] = medoid
        owner[wins[medoid]] = position
        bound, cost = np.minimum(far[medoid], bound), np.minimum(d[medoid], cost)
    return medoids


def _refine(medoids: Integers, d: Floats, far: Floats, agreement: "_Agreement", gamma: float) -> Integers:
    """Algorithm 2: move each medoid (of C) within its cluster, cluster by cluster, in sweeps."""
    for _ in range(SWEEPS):
        before = medoids.copy()
        cluster = far[medoids].argmin(axis=0)
        within = (d * (cluster[:, None] == cluster)).sum(axis=1)
        for position in range(len(medoids)):
            candidates = np.flatnonzero(cluster == position)  # (M,)
            others = far[medoids]
            others[position] = np.inf
            wins = far[candidates] < others.min(axis=0)  # (M, N)
            score = gamma * (1 - agreement.nmi(wins, others.argmin(axis=0))) - within[candidates]
            medoids[position] = candidates[score.argmax()]
        if (medoids == before).all():
            break  # another sweep would change nothing either
    return medoids


class _Agreement:
    """NMI between the classes of the batch and groupings of it.

    With φ(n) = n log n, N times an entropy is φ(N) - Σ φ(n) over the sizes of the groups, and N times that of two
    groupings together is the same over the sizes of their intersections, the cells.
    """

    def __init__(self, labels: npt.NDArray[np.generic]) -> None:
        names, classes = np.unique(labels, return_inverse=True)
        self.classes: Integers = classes
        self.count = len(names)
        n = np.arange(1, len(labels) + 1, dtype=np.float64)
        # In steps of 2^-40, so that sums up to 2^13 are exact in any order, and equal groupings have exactly NMI 1.
        self.phi: Floats = np.append(0, np.round(n * np.log(n) * 2**40) / 2**40)
        self.entropy = self.phi[-1] - self.phi[np.bincount(classes)].sum()

    def nmi(self, wins: Booleans, owner: Integers) -> Floats:
        """Return the NMI (M,) of M groupings: sample i is in a new group where wins (M, N), else in owner[i] < C."""
        cells = np.unique(owner * self.count + self.classes, return_inverse=True)[1]
        joint = self._entropy(np.where(wins, wins.shape[1] + self.classes, cells), wins.shape[1] + self.count)
        entropy = self._entropy(np.where(wins, self.count, owner), self.count + 1)
        scale = np.sqrt(self.entropy * entropy)
        # The scale is 0 for a single class, and for the first medoid, when all candidates are equal.
        nmi: Floats = np.divide(self.entropy + entropy - joint, scale, out=np.ones_like(scale), where=scale > 0)
        return nmi

    def _entropy(self, groups: Integers, count: int) -> Floats:
        # N times the entropy (M,) of groups (M, N), numbered below count.
        rows = np.arange(len(groups))[:, None] * count
        sizes = np.bincount((groups + rows).ravel(), minlength=len(groups) * count).reshape(-1, count)
        entropy: Floats = self.phi[-1] - self.phi[sizes].sum(axis=1)
        return entropy
