"""A flat map of the embeddings, by t-SNE: what is near in the embedding is near on the map.

van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; computed by openTSNE.

Shape key: n = pictures, D = embedding size.
"""

import numpy as np
from numpy.typing import NDArray

SHARES = 100  # a class may take 1/100 of a subset, more where there are fewer classes
FEWEST_FOR_TSNE = 8  # fewer points have no neighbourhoods to keep
EXACT = 5_000  # points whose neighbours are found by looking at every pair
SPREAD = 1e-4  # of the first layout, as openTSNE and scikit-learn start: small, so that points can still pass


def map_sample(labels: NDArray[np.int64], limit: int = 5_000, seed: int = 0) -> NDArray[np.int64]:
    """Choose the pictures that go on the map: all, or a random subset of `limit` of them.

    Plain random pictures of many small classes would be strangers to each other, and their map would show
    nothing. So whole classes are drawn, each up to its share of the subset.

    Returns:
        Indices into labels (n,), ascending.
    """
    if len(labels) <= limit:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    classes, members = np.unique(labels, return_inverse=True)
    turn = rng.permutation(len(classes))[members]  # (n,) when the class of each picture is drawn
    order = np.lexsort((rng.random(len(labels)), turn))  # class after class, pictures shuffled within
    place = np.arange(len(labels)) - np.searchsorted(turn[order], turn[order])  # 0, 1, ... within each class

    share = -(-limit // min(len(classes), SHARES))
    order = order[np.argsort(place >= share, kind="stable")]  # what exceeds a share only fills up
    return np.sort(order[:limit])


def perplexity(n: int) -> float:
    """The number of neighbours t-SNE minds for each of n points: 30, fewer for fewer than 91 points."""
    return min(30.0, (n - 1) / 3)


def embedding_map(embeddings: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    """Lay out embeddings (n, D) in the plane.

    Fewer than FEWEST_FOR_TSNE points are laid out by their principal components, points that are all the same
    in one place. The same input gives the same map. Beyond EXACT points neighbours and forces are approximate.

    Returns:
        Coordinates (n, 2), centred, the longer side spanning [-1, 1].
    """
    points = np.asarray(embeddings, dtype=np.float64)
    layout = _principal_components(points)
    if len(points) >= FEWEST_FOR_TSNE and layout.any():
        layout = _tsne(points, layout, seed)
    return framed(layout)


def framed(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre places (n, 2), n at least 1, and let the longer side span [-1, 1]."""
    low, high = places.min(axis=0), places.max(axis=0)
    half = float(np.max(high - low)) / 2
    centred: NDArray[np.float64] = places - (low + high) / 2
    return centred / (half or 1)


def _principal_components(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Project (n, D) onto the two directions of largest variance (n, 2); zeros if the points do not differ."""
    centred = points - points.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    scale[scale <= 1e-9 * np.linalg.norm(points)] = 0  # rounding, not spread
    axes = (left * scale)[:, :2]
    return np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))


def _tsne(points: NDArray[np.float64], start: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from openTSNE import TSNE

    # Copies start apart, or they would have nothing to push them off a line.
    jitter = np.random.default_rng(seed).normal(scale=0.01, size=start.shape)
    exact = len(points) <= EXACT
    tsne = TSNE(
        perplexity=perplexity(len(points)),
        initialization=SPREAD * (start / start[:, 0].std() + jitter),
        neighbors="exact" if exact else "annoy",
        negative_gradient_method="bh" if exact else "fft",  # the former is several times faster for few
        n_jobs=1,  # sums in one order: the same map on every machine with the same arithmetic
        random_state=seed,
    )
    return np.asarray(tsne.fit(points), dtype=np.float64)
