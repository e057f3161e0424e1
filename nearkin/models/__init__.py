"""Networks from pictures to embeddings."""

from nearkin.models.backbone import Backbone
from nearkin.models.batch_norm import join_batch_norms
from nearkin.models.bn_inception import BNInception
from nearkin.models.convnet import ConvNet
from nearkin.models.embedder import Embedder
from nearkin.models.modes import evaluating, freeze_batch_norm
from nearkin.models.multi_level import MultiLevelEmbedder

AnyEmbedder = Embedder | MultiLevelEmbedder

__all__ = [
    "AnyEmbedder",
    "BNInception",
    "Backbone",
    "ConvNet",
    "Embedder",
    "MultiLevelEmbedder",
    "evaluating",
    "freeze_batch_norm",
    "join_batch_norms",
]
