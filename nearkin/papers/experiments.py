"""The papers' experiments: one table, from which `configs/<data set>/<name>.yaml` are written.

    python -m nearkin.papers configs

Every row of the main tables and every cell of the ablations of

    AL   Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017
    RLL  Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019
    DAM  Xu et al., "Deep Asymmetric Metric Learning via Rich Relationship Mining", CVPR 2019

belongs to one experiment. Each paper trains all of its rows in one way, its preset; methods differ in the loss and in
how batches are drawn. Where a paper does not say, the choice stands in `note` and opens the file.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import yaml

from nearkin.papers.figures import Cell, published

Tree = dict[str, Any]

TITLES = {
    "AL": 'Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017',
    "RLL": 'Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019',
    "DAM": 'Xu et al., "Deep Asymmetric Metric Learning via Rich Relationship Mining", CVPR 2019',
}
MAIN_TABLE = {  # paper, data set -> number of the main table
    ("AL", "cub200"): "1",
    ("AL", "cars196"): "2",
    ("AL", "sop"): "3",
    ("RLL", "cub200"): "1",
    ("RLL", "cars196"): "1",
    ("RLL", "sop"): "2",
    ("DAM", "cub200"): "1",
    ("DAM", "cars196"): "2",
    ("DAM", "sop"): "3",
}
DATA_SETS = ("cub200", "cars196", "sop")
PICTURES_PER_SECOND = 1_500  # that training is expected to see on one GPU: an estimate, for want of one to measure on


@dataclass(frozen=True)
class Experiment:
    """One training run of a paper.

    Args:
        data_set: cub200, cars196 or sop.
        name: Of its file, without the ending.
        cells: The rows of the papers' tables that it is to be held against; the first is its own.
        settings: What its file sets, beside the run's folder; everything else keeps nearkin's defaults.
        batch: Pictures per step.
        notes: What the paper leaves open, and how it is decided here.
        views: Rows that are the same run, scored on some of its levels alone: {row: levels}.
    """

    data_set: str
    name: str
    cells: tuple[Cell, ...]
    settings: Tree
    batch: int
    notes: tuple[str, ...] = ()
    views: tuple[tuple[Cell, tuple[str, ...]], ...] = ()

    @property
    def file(self) -> str:
        return f"{self.data_set}/{self.name}.yaml"

    @property
    def out(self) -> str:
        """The run's folder: its own, for experiments of one data set are run one after the other."""
        return f"runs/{self.data_set}/{self.name}"

    def to_yaml(self) -> str:
        """The file: command, expected cost and the papers' figures as comments, then the settings."""
        pictures = self.settings["steps"] * self.batch
        minutes = pictures / PICTURES_PER_SECOND / 60
        cost = f"{minutes:.0f} minutes on one GPU: {pictures:,} pictures at {PICTURES_PER_SECOND:,} a second"
        head = [
            f"nearkin train configs/{self.file}",
            f"Estimated, not measured: {cost}.",
            TITLES[self.cells[0].paper] + ":",
            *(f"  {describe(cell)}" for cell in self.cells),
            *(
                f"  {describe(cell)}, by: nearkin evaluate {self.out} --levels {' '.join(levels)}"
                for cell, levels in self.views
            ),
            *self.notes,
        ]
        settings = {"out": self.out, **self.settings}
        body = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
        return "".join(f"# {line}\n" for line in head) + body


def describe(cell: Cell) -> str:
    """`Table 1, NL&AL: Recall@1 54.7, Recall@2 66.3, ..., NMI 61.1, F1 29.4`."""
    words = {"nmi": "NMI", "f1": "F1"}
    scores = published()[cell]
    shown = [
        f"{words.get(metric, metric.capitalize())} {100 * value:.1f}"
        if metric in words or metric.startswith("recall@")
        else f"{metric.replace('_', ' ')} {value:,g}"
        for metric, value in scores.items()
    ]
    return f"Table {cell.table}, {cell.method}: {', '.join(shown)}"


def made(name: str, **arguments: Any) -> Tree:
    return {"class_path": name, "init_args": arguments}


def balanced(classes: int, images: int) -> tuple[Tree, int]:
    return made("ClassBalancedSampler", classes=classes, images=images), classes * images


def pairs(batch: int) -> tuple[Tree, int]:
    return made("NPairSampler", batch_size=batch), batch


def triplets(batch: int) -> tuple[Tree, int]:
    return made("DisjointTripletSampler", batch_size=batch), batch


def streams(classes: int, images: int) -> tuple[Tree, int]:
    return made("TwoStreamSampler", classes=classes, images=images), 2 * classes * images


def preset(paper: str, data_set: str) -> Tree:
    """How a paper trains, whatever the loss. All start from ImageNet weights, and new layers learn 10 x as fast."""
    ks = [1, 10, 100, 1000] if data_set == "sop" else [1, 2, 4, 8]
    sgd = {
        "AL": {"lr": 1e-5 if data_set == "cub200" else 1e-4, "momentum": 0.9, "weight_decay": 2e-4},
        "RLL": {"lr": 1e-3 if data_set == "cub200" else 1e-2, "momentum": 0.9, "weight_decay": 1e-5},
        "DAM": {"lr": 1e-4, "momentum": 0.9, "weight_decay": 2e-4},
    }[paper]
    steps = {"AL": 20_000, "RLL": 16_000 if data_set == "sop" else 10_000, "DAM": 40_000}[paper]
    return {
        "data": data_set,
        "image": {"size": 227, "resize": 256},
        "augment": {"mirror": True},
        "backbone": {"name": "bn_inception" if paper == "RLL" else "googlenet", "weights": "imagenet"},
        "embedding_size": 512,
        "optimizer": made("SGD", **sgd),
        "steps": steps,
        "protocol": {"ks": ks, "kmeans_init": "random"},
    }


NOTES = {
    "AL": ("The paper gives neither momentum nor weight decay: 0.9 and 2e-4.",),
    "RLL": (),
    "DAM": (
        'The paper writes its rate as "10e-4", read here as 1e-4, and gives neither momentum nor weight decay: '
        "0.9 and 2e-4.",
    ),
}
QUOTED = {  # rows that a paper quotes from elsewhere, trained here as the rest of its table
    "RLL": "The paper quotes this row from others; here it is trained as the paper trains its own, with one head.",
    "DAM": "The paper quotes this row from others; here it is trained as the paper trains its own.",
}
MEASURED = (  # DAM's Lifted and N-pair on CUB
    "Table 1 quotes its figures; those of Tables 6 and 8 are taken to be its own, measured with the same method.",
    "One configuration stands for both, though their figures differ.",
)
APART = (
    "The paper minimizes the sum of all terms over generator and embedding jointly.",
    "nearkin trains each on its own terms of the loss; nearkin/losses/daml.py says why.",
)
UNIT = "Loss and scores are on the unit sphere, where the margin means something; the paper does not say."
OF_126 = "128 pictures make no whole number of triplets: 126."
LEVELS = ["inception_3c", "inception_4e", "inception_5b"]  # the ranked list paper's L, M and H


def methods(paper: str, data_set: str) -> Iterator[tuple[str, str, Tree, tuple[Tree, int], tuple[str, ...]]]:
    """The rows of a paper's main table: row, file name, loss, sampler and batch, notes."""
    sop = data_set == "sop"
    angle = 36.0 if sop else 45.0
    if paper == "AL":
        drawn = pairs(128)
        yield "T-I", "triplet_disjoint", made("TripletLoss", disjoint=True), triplets(126), (OF_126, UNIT)
        yield "T-II", "triplet", made("TripletLoss"), drawn, (UNIT,)
        yield "LS", "lifted_structure", made("LiftedStructureLoss"), drawn, ()
        yield "NL", "npair", made("NPairLoss"), drawn, ()
        yield "AL", "angular", made("AngularLoss", alpha=angle, normalize=False), drawn, ()
        yield "NL&AL", "npair_angular", made("NPairAngularLoss", alpha=angle, weight=2.0), drawn, ()
    elif paper == "RLL":
        drawn, quoted = balanced(60, 3), (QUOTED["RLL"],)
        spectral = balanced(250, 5) if sop else balanced(18, 70)
        many = "N must exceed D = 512. The paper draws 18 classes x 70; a class here has about 5 pictures: 250 x 5."
        yield "Triplet Semihard", "triplet_semihard", made("SemihardTripletLoss"), drawn, quoted
        yield "Lifted Struct", "lifted_structure", made("LiftedStructureLoss"), drawn, quoted
        yield "N-pair-mc", "npair_mc", made("NPairLoss", form="mc", l2=0.02), pairs(180), quoted
        yield "Struct Clust", "struct_clust", made("FacilityLocationLoss"), drawn, quoted
        yield (
            "Spectral Clust",
            "spectral_clust",
            made("SpectralClusteringLoss"),
            spectral,
            (
                *quoted,
                *((many,) if sop else ()),
            ),
        )
        yield "Proxy NCA", "proxy_nca", made("ProxyNCALoss"), drawn, quoted
        yield "RLL-(L,M,H)", "ranked_list", made("RankedListLoss", alpha=1.2, margin=0.4, temperature=10.0), drawn, ()
    else:
        drawn, quoted = balanced(*((20, 6) if sop else (12, 10))), (QUOTED["DAM"],)
        twice = (*quoted, *MEASURED) if data_set == "cub200" else quoted
        yield "DDML", "ddml", made("DDMLLoss"), drawn, quoted
        yield "Contrastive", "contrastive", made("ContrastiveLoss"), drawn, quoted
        yield "Triplet", "triplet_disjoint", made("TripletLoss", disjoint=True), triplets(120), (*quoted, UNIT)
        yield "Triplet+N-pair", "triplet", made("TripletLoss"), pairs(120), (*quoted, UNIT)
        yield "Lifted", "lifted_structure", made("LiftedStructureLoss"), pairs(120), twice
        yield "N-pair", "npair", made("NPairLoss"), pairs(120), twice
        yield "Angular", "angular", made("AngularLoss", alpha=angle, normalize=False), pairs(120), quoted
        yield "AML", "daml", made("DAMLLoss", pretraining=8_000), triplets(120), (*quoted, *APART)
        yield (
            "DAMLRRM",
            "damlrrm",
            made("DAMLRRMLoss", alpha=30.0, beta=0.5),
            streams(*((20, 3) if sop else (12, 5))),
            (),
        )


@dataclass(frozen=True)
class Ablation:
    """One number of one row varied, everything else kept.

    Args:
        paper, table, data_set: Where it is reported.
        base: File name of the row, without the paper.
        key: Whose argument varies: loss or sampler.
        argument: Its name.
        row: How the table names a value: a format string with the fields `value` and `batch`, three times that.
        values: Those that were tried. The one that the row has anyway is that row itself.
    """

    paper: str
    table: str
    data_set: str
    base: str
    key: str
    argument: str
    row: str
    values: tuple[float, ...]


ABLATIONS = (
    Ablation("AL", "4", "cars196", "npair_angular", "loss", "alpha", "NL&AL(alpha={value:g})", (36, 42, 45, 48, 55)),
    Ablation("AL", "5", "sop", "npair_angular", "loss", "alpha", "NL&AL(alpha={value:g})", (45, 36)),
    Ablation("AL", "5", "sop", "angular", "loss", "alpha", "AL(alpha={value:g})", (45, 36)),
    Ablation(
        "RLL", "3", "sop", "ranked_list", "loss", "alpha", "RLL-(L,M,H)(alpha={value:.1f},m=0.4,T=10)", (1.4, 1.2, 1.0)
    ),
    Ablation(
        "RLL",
        "4",
        "sop",
        "ranked_list",
        "loss",
        "margin",
        "RLL-(L,M,H)(m={value:g},alpha=1.2,T=10)",
        (0.0, 0.2, 0.4, 0.6, 1.2),
    ),
    Ablation(
        "RLL",
        "5",
        "sop",
        "ranked_list",
        "loss",
        "temperature",
        "RLL-(L,M,H)(T={value:g},m=0.4,alpha=1.2)",
        (0, 5, 10, 15, 20),
    ),
    Ablation(
        "RLL",
        "7",
        "sop",
        "ranked_list",
        "sampler",
        "classes",
        "RLL-(L,M,H)(batch={batch}={value}x3)",
        (40, 50, 55, 60, 65),
    ),
    Ablation("DAM", "4", "cub200", "damlrrm", "loss", "alpha", "DAMLRRM(alpha={value:g},beta=0.5)", (26, 28, 30, 32)),
    Ablation(
        "DAM",
        "5",
        "cub200",
        "damlrrm",
        "loss",
        "beta",
        "DAMLRRM(beta={value:.1f},alpha=30)",
        (0.1, 0.3, 0.5, 0.7, 1.0),
    ),
)

AGAIN = (  # rows of further tables that the run of a main table's row stands for; not always with its figures: MEASURED
    (Cell("AL", "5", "sop", "NL"), "npair"),
    (Cell("RLL", "6", "sop", "RLL-(L,M,H)"), "ranked_list"),
    (Cell("DAM", "6", "cub200", "Lifted"), "lifted_structure"),
    (Cell("DAM", "6", "cub200", "N-pair"), "npair"),
    (Cell("DAM", "8", "cub200", "Lifted"), "lifted_structure"),
    (Cell("DAM", "8", "cub200", "N-pair"), "npair"),
    (Cell("DAM", "8", "cub200", "DAMLRRM"), "damlrrm"),
)

VARIANTS = (  # of DAMLRRM, with the arguments of its loss: one of its two parts alone
    (Cell("DAM", "6", "cub200", "OURS1(shuffled loss only)"), "damlrrm_shuffled", {"streams": "shuffled"}),
    (Cell("DAM", "7", "cub200", "OURS2(graph loss only; MST pairs)"), "damlrrm_neat", {"streams": "neat"}),
    (
        Cell("DAM", "7", "cub200", "Full PPs(graph loss only; all positive pairs)"),
        "damlrrm_neat_all",
        {"streams": "neat", "positives": "all"},
    ),
)


def main_rows() -> Iterator[Experiment]:
    """Every row of every main table; RLL-H is a view of its run with three heads."""
    for (paper, data_set), table in MAIN_TABLE.items():
        for row, name, criterion, (sampler, batch), notes in methods(paper, data_set):
            settings = {**preset(paper, data_set), "loss": criterion, "sampler": sampler}
            views: list[tuple[Cell, tuple[str, ...]]] = []
            if row == "RLL-(L,M,H)":
                settings["levels"] = list(LEVELS)
                views = [(Cell(paper, table, data_set, "RLL-H"), (LEVELS[-1],))]
                if data_set == "sop":
                    views += [
                        (Cell(paper, "6", "sop", f"RLL-{head}"), (level,))
                        for head, level in zip("LMH", LEVELS, strict=True)
                    ]
            cell = Cell(paper, table, data_set, row)
            yield Experiment(
                data_set, f"{paper.lower()}_{name}", (cell,), settings, batch, NOTES[paper] + notes, tuple(views)
            )


def experiments() -> list[Experiment]:
    """All of them: the main tables' rows, then the ablations' other values, then DAMLRRM's variants."""
    found = {(each.data_set, each.name): each for each in main_rows()}

    def also(key: tuple[str, str], cell: Cell) -> None:
        found[key] = replace(found[key], cells=(*found[key].cells, cell))

    for cell, name in AGAIN:
        also((cell.data_set, f"{cell.paper.lower()}_{name}"), cell)
    for each in ABLATIONS:
        name = f"{each.paper.lower()}_{each.base}"
        base = found[each.data_set, name]
        for value in each.values:
            cell = Cell(each.paper, each.table, each.data_set, each.row.format(value=value, batch=3 * int(value)))
            if base.settings[each.key]["init_args"][each.argument] == value:
                also((each.data_set, name), cell)
                continue
            settings = deepcopy(base.settings)
            settings[each.key]["init_args"][each.argument] = value
            batch = 3 * int(value) if each.key == "sampler" else base.batch
            other = f"{name}_{each.argument}_{value:g}"
            found[each.data_set, other] = replace(
                base, name=other, cells=(cell,), settings=settings, batch=batch, views=()
            )
    base = found["cub200", "dam_damlrrm"]
    for cell, variant, arguments in VARIANTS:
        settings = deepcopy(base.settings)
        settings["loss"]["init_args"] |= arguments
        settings["protocol"]["ks"] = [1, 2, 4, 8, 16]
        found["cub200", f"dam_{variant}"] = replace(base, name=f"dam_{variant}", cells=(cell,), settings=settings)
    return list(found.values())


EXPERIMENTS = experiments()


def files() -> Iterator[tuple[str, str]]:
    """The name of each file in configs/, and what stands in it."""
    return ((each.file, each.to_yaml()) for each in EXPERIMENTS)
