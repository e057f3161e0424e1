"""Where pictures come from, and which of them meet in a batch."""

from nearkin.data.augment import Augmentation, centre_crop
from nearkin.data.folder import ClassSplit, ImageList, scan, split_classes
from nearkin.data.pictures import Pictures, prefetch, read_all
from nearkin.data.preprocessing import Preprocessing
from nearkin.data.samplers import ClassBalancedSampler, DisjointTripletSampler, NPairSampler
from nearkin.data.source import Data
from nearkin.data.two_streams import TwoStreamSampler

__all__ = [
    "Augmentation",
    "ClassBalancedSampler",
    "ClassSplit",
    "Data",
    "DisjointTripletSampler",
    "ImageList",
    "NPairSampler",
    "Pictures",
    "Preprocessing",
    "TwoStreamSampler",
    "centre_crop",
    "prefetch",
    "read_all",
    "scan",
    "split_classes",
]
