"""The papers' methods on pictures small enough for two processor cores: `configs/omniglot` and `configs/grocery`.

The papers' networks cannot be trained there in hours, so this reproduces none of their figures. It compares on equal
terms: one network from random weights, one optimizer, one number of pictures seen, and of each method the loss, its
arguments, its batches and its normalization as its paper has them. docs/results.md says what came of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from nearkin.papers.experiments import balanced, made, pairs, streams, triplets

Tree = dict[str, Any]


@dataclass(frozen=True)
class Pictures:
    """A set of pictures, and what all methods have in common on it.

    Args:
        name: Of its folder in configs/, and beside the repository.
        settings: The same for every method.
        seen: Pictures that every method trains on, repeats counted: batch times steps.
        classes, images: Of a balanced batch. Other batches are as large, as nearly as their structure allows.
        spectral: Classes and images of spectral clustering's batch, which must be larger than the embedding.
        cost: Of one run.
    """

    name: str
    settings: Tree
    seen: int
    classes: int
    images: int
    spectral: tuple[int, int]
    cost: str


SETS = (
    Pictures(
        name="omniglot",
        settings={
            "image": {"size": 28},
            "augment": {"mirror": False, "rotate": 15, "zoom": 0.15, "shift": 0.1},
            "backbone": "convnet",
            "pool": "max",
            "embedding_size": 64,
            "optimizer": made("AdamW", lr=0.003, weight_decay=0.0001),
            "schedule": "CosineAnnealingLR",
        },
        seen=128 * 200,
        classes=32,
        images=4,
        spectral=(18, 7),
        cost="20 to 30 seconds",
    ),
    Pictures(
        name="grocery",
        settings={
            "image": {"size": 48, "resize": 54},
            "augment": {"mirror": True, "rotate": 10, "zoom": 0.2, "contrast": 0.3},
            "backbone": "convnet",
            "pool": "max",
            "embedding_size": 64,
            "levels": ["block3", "block4"],
            "optimizer": made("AdamW", lr=0.003, weight_decay=0.3),
            "schedule": "CosineAnnealingLR",
        },
        seen=48 * 250,
        classes=12,
        images=4,
        spectral=(18, 10),
        cost="20 to 40 seconds",
    ),
)
WARMUP = 0.2  # of the steps
PRETRAINING = 0.2  # of the steps: DAML's first phase, as in its authors' code


def methods(pictures: Pictures) -> Iterator[tuple[str, Tree, tuple[Tree, int], str | None]]:
    """Every method of the three papers: file name, loss, sampler and batch, and what its file has to say."""
    drawn = balanced(pictures.classes, pictures.images)
    batch = drawn[1]
    by_three = triplets(batch // 3 * 3)
    two = streams(batch // 2 // pictures.images, pictures.images)
    spectral = balanced(*pictures.spectral)
    pretraining = round(PRETRAINING * pictures.seen / by_three[1])
    yield "contrastive", made("ContrastiveLoss"), drawn, None
    yield "ddml", made("DDMLLoss"), drawn, None
    yield "triplet_disjoint", made("TripletLoss", disjoint=True), by_three, None
    yield "triplet", made("TripletLoss"), pairs(batch), None
    yield "triplet_semihard", made("SemihardTripletLoss"), drawn, None
    yield "margin", made("MarginLoss"), drawn, None
    yield "lifted_structure", made("LiftedStructureLoss"), drawn, None
    yield "npair_mc", made("NPairLoss", form="mc", l2=0.02), pairs(batch), None
    yield "npair", made("NPairLoss"), pairs(batch), None
    yield "angular", made("AngularLoss", alpha=45.0, normalize=False), pairs(batch), None
    yield "npair_angular", made("NPairAngularLoss", alpha=45.0, weight=2.0), pairs(batch), None
    yield "proxy_nca", made("ProxyNCALoss"), drawn, None
    yield "struct_clust", made("FacilityLocationLoss"), drawn, None
    yield "spectral_clust", made("SpectralClusteringLoss"), spectral, "Its batch must be larger than the embedding."
    yield "daml", made("DAMLLoss", pretraining=pretraining), by_three, None
    yield "ranked_list", made("RankedListLoss", alpha=1.2, margin=0.4, temperature=10.0), drawn, None
    yield "damlrrm", made("DAMLRRMLoss"), two, "The paper's alpha of 30 belongs to its network; see damlrrm_relative."
    yield (
        "damlrrm_relative",
        made("DAMLRRMLoss", alpha=1.0, beta=0.02, relative=True),
        two,
        "The paper's alpha and beta as multiples of the mean distance between negatives in the first batch.",
    )


def files() -> Iterator[tuple[str, str]]:
    """The name of each file in configs/, and what stands in it."""
    for pictures in SETS:
        for name, criterion, (sampler, batch), note in methods(pictures):
            file = f"{pictures.name}/{name}.yaml"
            steps = round(pictures.seen / batch)
            settings = {
                "out": f"runs/{pictures.name}/{name}",
                **pictures.settings,
                "loss": criterion,
                "sampler": sampler,
                "warmup": round(WARMUP * steps),
                "steps": steps,
            }
            head = [
                f"nearkin train configs/{file} --data ../shared/data/{pictures.name}",
                f"{pictures.cost.capitalize()} on 2 cores. What it scores, beside every other method: docs/results.md",
                *([note] if note else []),
            ]
            body = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=110)
            yield file, "".join(f"# {line}\n" for line in head) + body
