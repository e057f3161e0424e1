"""Networks from pictures to embeddings."""

from nearkin.models.backbone import Backbone
from nearkin.models.convnet import ConvNet
from nearkin.models.embedder import Embedder, freeze_batch_norm

__all__ = ["Backbone", "ConvNet", "Embedder", "freeze_batch_norm"]
