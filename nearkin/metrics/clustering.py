"""How well two labellings of the same items agree: NMI and the F1 score of pairs, from one contingency table.

Manning et al., "Introduction to Information Retrieval", 2008, section 16.3. The table is kept sparse, as its nonzero
cells, of which there are at most N: 11,316 classes against as many clusters cost no more than two against two.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearkin.metrics.inputs import Array, as_labels


class Contingency(NamedTuple):
    """Sizes, int64: of every class, of every cluster, and of their nonempty intersections, the cells.

    `row` and `column` (one entry per cell) say which class and which cluster a cell lies in.
    """

    cells: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    clusters: npt.NDArray[np.int64]


def contingency(labels: Array, clusters: Array) -> Contingency:
    """Count how many items each class and each cluster share.

    Raises:
        ValueError: Unless both are integers of the same shape (N,), N at least 1.
    """
    labels = as_labels(labels)
    clusters = as_labels(clusters, len(labels), "clusters")
    _, row, row_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    _, column, column_sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    cell, cells = np.unique(row * len(column_sizes) + column, return_counts=True)
    return Contingency(cells, *np.divmod(cell, len(column_sizes)), row_sizes, column_sizes)


def nmi(labels: Array, clusters: Array) -> float:
    """Normalized mutual information 2 I / (H(labels) + H(clusters)), in [0, 1]; symmetric.

    1 where both entropies are 0: two labellings that put everything into one group agree. Equals scikit-learn's
    `normalized_mutual_info_score` (arithmetic mean). Errors as in `contingency`.
    """
    table = contingency(labels, clusters)
    entropies = _entropy(table.classes) + _entropy(table.clusters)
    if entropies == 0:
        return 1.0
    # I = H(labels) + H(clusters) - H(both) would cancel; the sum over cells does not.
    n = table.cells.sum()
    expected = table.classes[table.row] / n * table.clusters[table.column]
    information = np.sum(table.cells / n * np.log(table.cells / expected))
    return float(np.clip(2 * information / entropies, 0, 1))


def pairwise_f1(labels: Array, clusters: Array) -> float:
    """F1 over the pairs of items: those in one cluster, retrieved, against those of one class, relevant; in [0, 1].

    With TP the pairs in both, P = TP / retrieved and R = TP / relevant, it is 2 P R / (P + R) = 2 TP / (retrieved +
    relevant), in integers up to the one division; symmetric. 1 where there is no pair of either kind: every item is
    alone in both, and they agree. Errors as in `contingency`.
    """
    table = contingency(labels, clusters)
    either = _pairs(table.classes) + _pairs(table.clusters)
    return 2 * _pairs(table.cells) / either if either else 1.0


def _entropy(sizes: npt.NDArray[np.int64]) -> float:
    share = sizes / sizes.sum()
    return float(-np.sum(share * np.log(share)))


def _pairs(sizes: npt.NDArray[np.int64]) -> int:
    return int(np.sum(sizes * (sizes - 1) // 2))
