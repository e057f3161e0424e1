"""Pure functions from embeddings and labels to figures of merit."""

from nearkin.metrics.clustering import nmi, pairwise_f1
from nearkin.metrics.evaluation import evaluate
from nearkin.metrics.kmeans import KMeans, kmeans
from nearkin.metrics.retrieval import map_at_r, r_precision, recall_at_k, retrieval

__all__ = [
    "KMeans",
    "evaluate",
    "kmeans",
    "map_at_r",
    "nmi",
    "pairwise_f1",
    "r_precision",
    "recall_at_k",
    "retrieval",
]
