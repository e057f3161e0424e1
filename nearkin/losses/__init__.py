"""Losses: modules that map embeddings (N, D) and class ids (N,) to a scalar. One per file."""

from nearkin.losses.angular import AngularLoss
from nearkin.losses.angular_hinge import AngularHingeLoss
from nearkin.losses.contrastive import ContrastiveLoss
from nearkin.losses.cross_batch_memory import CrossBatchMemory
from nearkin.losses.daml import DAMLLoss
from nearkin.losses.damlrrm import DAMLRRMLoss
from nearkin.losses.ddml import DDMLLoss
from nearkin.losses.facility_location import FacilityLocationLoss
from nearkin.losses.lifted_structure import LiftedStructureLoss
from nearkin.losses.margin import MarginLoss
from nearkin.losses.npair import NPairLoss
from nearkin.losses.npair_angular import NPairAngularLoss
from nearkin.losses.proxy_nca import ProxyNCALoss
from nearkin.losses.ranked_list import RankedListLoss
from nearkin.losses.semihard import SemihardTripletLoss
from nearkin.losses.spectral_clustering import SpectralClusteringLoss
from nearkin.losses.triplet import TripletLoss

__all__ = [
    "AngularHingeLoss",
    "AngularLoss",
    "ContrastiveLoss",
    "CrossBatchMemory",
    "DAMLLoss",
    "DAMLRRMLoss",
    "DDMLLoss",
    "FacilityLocationLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "NPairAngularLoss",
    "NPairLoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "SemihardTripletLoss",
    "SpectralClusteringLoss",
    "TripletLoss",
]
