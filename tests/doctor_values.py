"""Write `nearkin/doctor.json`, what `nearkin doctor` compares with, from the slow references of the tests.

python tests/doctor_values.py
"""

# ruff: noqa: E402

import base64
import io
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from sklearn.metrics import normalized_mutual_info_score

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "losses"), str(TESTS / "metrics")]

import test_angular
import test_angular_hinge
import test_clustering
import test_contrastive
import test_daml
import test_damlrrm
import test_ddml
import test_facility_location
import test_lifted_structure
import test_margin
import test_npair
import test_npair_angular
import test_proxy_nca
import test_ranked_list
import test_retrieval
import test_semihard
import test_spectral_clustering
import test_triplet

from nearkin import losses
from nearkin.data.images import FORMATS
from nearkin.doctor import STORED, apart, parameter_values, picture

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 5, 5])  # pairs, thirds and halves: a batch that every loss takes
ONE_NEGATIVE = torch.tensor([0] * 11 + [1])  # leaves no choice to the margin loss, which draws its negatives
CLUSTERS = torch.arange(12) // 3


def proxy_nca(x, y):
    return test_proxy_nca.reference(x, y, parameter_values(torch.Size((6, 6))), 3.0, False)


def margin(x, y):
    times = torch.zeros(12, 12)
    times[:11, 11] = 10  # each of eleven draws as many as it has positives
    return test_margin.reference(x, y, times, 0.2, lambda anchor: 1.2)


def daml(x, y):
    shapes = [each.shape for each in losses.DAMLLoss(6).generator.parameters()]
    weights = [parameter_values(shape) for shape in shapes]
    parts = (test_daml.generators_part(x.detach(), weights, 1.0, 1.0, 1.0), test_daml.metric_part(x, weights, 1.0))
    return sum(parts)


def facility_location(x, y):
    return test_facility_location.Reference(x, y, 1.0).loss()


REFERENCES = {
    "AngularHingeLoss": ({}, lambda x, y: test_angular_hinge.reference(x, y, 45.0)),
    "AngularLoss": ({}, lambda x, y: test_angular.reference(x, y, 45.0)),
    "ContrastiveLoss": ({}, lambda x, y: test_contrastive.reference(x, y, 1.0)),
    "DAMLLoss": ({"embedding_size": 6, "pretraining": 0}, daml),
    "DAMLRRMLoss": ({"alpha": 3.0}, lambda x, y: test_damlrrm.reference(x, y, 3.0, 0.5)),
    "DDMLLoss": ({}, lambda x, y: test_ddml.reference(x, y, 10.0, 3.0)),
    "FacilityLocationLoss": ({}, facility_location),
    "LiftedStructureLoss": ({}, lambda x, y: test_lifted_structure.reference(x, y, 1.0)),
    "MarginLoss": ({}, margin),
    "NPairAngularLoss": ({}, lambda x, y: test_npair_angular.reference(x, y, 45.0, 2.0)),
    "NPairLoss": ({}, lambda x, y: test_npair.tuplet(x, y, 0.0)),
    "NPairLoss, mc": ({"form": "mc"}, lambda x, y: test_npair.multi_class(x, y, 0.0)),
    "ProxyNCALoss": ({"num_classes": 6, "embedding_size": 6}, proxy_nca),
    "RankedListLoss": ({}, lambda x, y: test_ranked_list.reference(x, y, 1.2, 0.4, 10.0, 1.0, False)),
    "SemihardTripletLoss": ({}, lambda x, y: test_semihard.reference(x, y, 0.2)),
    "SpectralClusteringLoss": ({}, test_spectral_clustering.reference),
    "TripletLoss": ({}, lambda x, y: test_triplet.all_triplets(x, y, 0.2)),
    "TripletLoss, disjoint": ({"disjoint": True}, lambda x, y: test_triplet.thirds(x, 0.2)),
}


def points(seed):
    """Multiples of 1/64, which float32 holds."""
    return (torch.randn(12, 6, generator=torch.Generator().manual_seed(seed)) * 64).round().double() / 64


def of_loss(name, x, direction):
    arguments, reference = REFERENCES[name]
    kind = name.split(",")[0]
    labels = ONE_NEGATIVE if kind == "MarginLoss" else LABELS
    normalize = getattr(losses, kind)(**arguments).normalize
    x = x.clone().requires_grad_()
    value = reference(x / x.norm(dim=1, keepdim=True) if normalize else x, labels)
    (gradient,) = torch.autograd.grad(value, x)
    slope = float((gradient * direction).sum())
    return {"class": kind, "arguments": arguments, "labels": labels.tolist(), "value": value.item(), "slope": slope}


def of_metrics(x):
    ranked = test_retrieval.reference(x, LABELS, ks=(1, 2, 4, 8))
    groups = (apart(x)[::2], apart(x)[1::2])
    return {
        "retrieval": [float(each) for each in ranked.values()],
        "nmi and pairwise_f1": [
            float(normalized_mutual_info_score(LABELS, CLUSTERS)),
            float(test_clustering.sklearn_f1(LABELS, CLUSTERS)),
        ],
        "kmeans": [sum(float((each - each.mean(dim=0)).square().sum()) for each in groups)],
    }


def encoded(kind):
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, kind, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}))
    return base64.b64encode(file.getvalue()).decode()


def values():
    x, direction = points(0), points(1)
    return {
        "embeddings": x.tolist(),
        "direction": direction.tolist(),
        "labels": LABELS.tolist(),
        "clusters": CLUSTERS.tolist(),
        "losses": {name: of_loss(name, x, direction) for name in REFERENCES},
        "metrics": of_metrics(x),
        "pictures": {kind: encoded(kind) for kind in FORMATS},
    }


if __name__ == "__main__":
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values().items())
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
