"""k-means, by faiss: the clustering that NMI and F1 are measured on.

Lloyd, "Least Squares Quantization in PCM", 1982; started at random points, or as in Arthur and Vassilvitskii,
"k-means++: The Advantages of Careful Seeding", SODA 2007.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nearkin.metrics.inputs import Array, as_embeddings


class KMeans(NamedTuple):
    """k clusters of N points.

    Attributes:
        assignments: (N,) int64, the cluster of each point: its nearest centroid. Some clusters may be empty.
        centroids: (k, D) float32.
        objective: Sum over the points of the squared distance to their centroid.
    """

    assignments: npt.NDArray[np.int64]
    centroids: npt.NDArray[np.float32]
    objective: float


def kmeans(
    x: Array,
    k: int,
    *,
    init: Literal["k-means++", "random"] = "k-means++",
    restarts: int = 1,
    iterations: int = 100,
    seed: int = 0,
) -> KMeans:
    """Cluster points (N, D) into k groups, using all of them, in float32 on the CPU.

    The same input and seed give the same clusters on one machine. Where the start lands moves NMI by a point or more,
    so report seed and restarts with it. TODO figures

    Args:
        x: (N, D) points, NumPy or PyTorch, of any floating type.
        k: Number of clusters, from 1 to N.
        init: First centroids: "random" takes k of the points; "k-means++" takes far ones more often, which costs k N D
            and pays where clusters are many and small.
        restarts: How many starts to run; the one of the lowest objective is returned.
        iterations: The most updates of the centroids; it stops at once when they no longer lower the objective.
        seed: Of the random choices of all the starts.

    Raises:
        ValueError: Points as in `as_embeddings`; k outside 1 to N; init neither of the two; restarts or iterations
            below 1; seed outside 0 to 2**31 - 1.
    """
    import faiss  # only here: the rest of nearkin.metrics does without

    points = as_embeddings(x, "x").double().cpu().numpy()
    n, d = points.shape
    starts = {
        "k-means++": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        "random": faiss.ClusteringInitMethod_RANDOM,
    }
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the number of points, {n}, got {k}")
    if init not in starts:
        raise ValueError(f"init must be one of {', '.join(starts)}, got {init!r}")
    if restarts < 1 or iterations < 1:
        raise ValueError(f"restarts and iterations must be at least 1, got {restarts} and {iterations}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be from 0 to 2**31 - 1, got {seed}")

    # faiss takes distances from float32 dot products, which lose them far from the origin and at extreme scales.
    center = points.mean(axis=0)
    points = points - center
    scale = float(np.linalg.norm(points, axis=1).max()) or 1.0
    points = (points / scale).astype(np.float32)

    model = faiss.Kmeans(
        d,
        k,
        niter=int(iterations),
        nredo=int(restarts),
        seed=int(seed),
        init_method=starts[init],
        max_points_per_centroid=n,  # above this it would take a sample
        min_points_per_centroid=1,  # below this it would warn
    )
    model.train(points)
    distances, assignments = model.assign(points)  # squared
    assert model.centroids is not None
    centroids = (model.centroids * scale + center).astype(np.float32)
    return KMeans(assignments, centroids, float(distances.sum(dtype=np.float64)) * scale**2)
