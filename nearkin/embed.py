"""A trained model and its preprocessing: pictures -> embeddings, and back from a run's folder."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from nearkin.calibration import Calibration
from nearkin.data import Pictures, Preprocessing, centre_crop, prefetch
from nearkin.data.images import Picture, Source
from nearkin.errors import InputError, nearest
from nearkin.files import read_mapping, write_file
from nearkin.models import AnyEmbedder, Backbone, Embedder, MultiLevelEmbedder
from nearkin.models.embedder import Pool
from nearkin.models.weights import fill, read_tensors
from nearkin.processes import collect, share
from nearkin.progress import track

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"

AGAIN = "bring it back, or train it again"

LONGEST = 2**16
"""Of an embedding, numbers."""

METRIC = "euclidean"
"""The distance that compares embeddings."""


@dataclass(frozen=True)
class Architecture:
    """What has to be known, beside the weights, to rebuild an embedder.

    Args:
        backbone: As in `nearkin.models.Backbone`.
        embedding_size: Length of the embeddings, of each level if there are several.
        pool: As in `nearkin.models.Embedder`.
        normalize: Whether embeddings are put on the unit sphere before they are compared.
        image: How a picture becomes what the backbone sees.
        levels: As in `nearkin.models.MultiLevelEmbedder`; None is a single head.
        per_level_norm: Whether each level is put on the unit sphere before all of them together are.
    """

    backbone: str
    embedding_size: int
    pool: Pool
    normalize: bool
    image: Preprocessing
    levels: tuple[str, ...] | None = None
    per_level_norm: bool = False

    @property
    def width(self) -> int:
        """Length of the embeddings, all levels together."""
        return self.embedding_size * (len(self.levels) if self.levels else 1)


class Network(nn.Module):
    """Squares to embeddings as they are compared: on the unit sphere if the model was trained for that.

    Args:
        embedder: From pictures to raw embeddings.
        architecture: What it is.
    """

    def __init__(self, embedder: AnyEmbedder, architecture: Architecture) -> None:
        super().__init__()
        self.embedder = embedder
        self.architecture = architecture

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures (n, 3, size, size), RGB in 0 to 255, to embeddings (n, D)."""
        embeddings: Tensor = self.embedder(images)
        if self.architecture.per_level_norm:
            levels = torch.unflatten(embeddings, 1, (-1, self.architecture.embedding_size))  # (n, L, D of one)
            embeddings = F.normalize(levels, dim=2).flatten(1)
        return F.normalize(embeddings) if self.architecture.normalize else embeddings


@dataclass
class Model:
    """An embedder that is ready for use.

    Attributes:
        embedder: The network, in evaluation mode.
        architecture: How it is built and how its pictures are prepared.
        trained_classes: Names of the classes that it has learnt from or was chosen by; scores are for others.
        calibration: How near pictures of different kinds come.
        sha256: Of the weights' file; empty before they were saved.
    """

    embedder: AnyEmbedder
    architecture: Architecture
    trained_classes: list[str] = field(default_factory=list)
    calibration: Calibration | None = None
    sha256: str = ""

    def embed(self, images: Sequence[Source]) -> NDArray[np.float32]:
        """Embeddings (n, D) of pictures: paths, PIL images, file contents or uint8 arrays (H, W, 3).

        On the unit sphere if the model was trained for that, so that Euclidean distances compare them.

        Raises:
            UnreadableImage: One of them cannot be read; the message names it.
            TypeError: A single picture instead of a sequence of them.
        """
        # An array of one grey or colour picture has a length, too: of its rows.
        one = isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3))
        if one or isinstance(images, str | bytes | os.PathLike | Image.Image):
            raise TypeError(f"expected a sequence of pictures, got one {type(images).__name__}: embed([picture])")
        if len(images) == 1:  # a search: to start threads would take as long as the rest
            return self.run([self._stacked([self.architecture.image.decode(images[0])])])
        batches = [images[start : start + self.batch] for start in range(0, len(images), self.batch)]
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode") as threads:

            def decode(batch: Sequence[Source]) -> Tensor:
                return self._stacked(list(threads.map(self.architecture.image.decode, batch)))

            return self.run(prefetch(decode, batches))

    @staticmethod
    def _stacked(squares: Sequence[Picture]) -> Tensor:
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)

    def embed_pictures(self, pictures: Pictures, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings (n, D) of some of the pictures of a set, decoding ahead of the network; shows its progress.

        Several processes embed the batches of one, each its share, and all have the whole.
        """
        batches = np.split(indices, range(self.batch, len(indices), self.batch))
        mine = batches[share(len(batches))]
        loaded = prefetch(pictures.__getitem__, mine)
        return np.concatenate(collect(self.run(track(loaded, "embedding batches", len(mine), transient=True))))

    @property
    def device(self) -> torch.device:
        return next(self.embedder.parameters()).device

    @property
    def batch(self) -> int:
        """Pictures at a time: as many as the caches of a processor hold the features of, or as keep a GPU busy."""
        return 32 if self.device.type == "cpu" else 256

    @torch.inference_mode()
    def run(self, batches: Iterable[Tensor]) -> NDArray[np.float32]:
        """Embeddings of decoded batches, uint8 (n, 3, side, side) each."""
        training = self.embedder.training
        network = Network(self.embedder, self.architecture).eval()
        rows = [np.empty((0, self.architecture.width), dtype=np.float32)]
        for batch in batches:
            images = centre_crop(batch, self.architecture.image.size).to(self.device)
            rows.append(network(images).float().cpu().numpy())
        self.embedder.train(training)
        return np.concatenate(rows)

    def of_levels(self, levels: Sequence[str], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """The part of this model's embeddings (n, D) that some of its levels give, in the order named.

        On the unit sphere if the whole is: what the levels alone, concatenated and normalised, would have been.

        Raises:
            InputError: The model has no such level, or a single head.
        """
        known = self.architecture.levels
        if known is None:
            raise InputError("levels are for models that were trained with several; this one has a single head")
        for level in levels:
            if level not in known:
                raise InputError(f"the model has no level {level!r}; {nearest(level, known)}")
        each = embeddings.reshape(len(embeddings), len(known), self.architecture.embedding_size)
        part = torch.from_numpy(each[:, [known.index(level) for level in levels]]).flatten(1)
        return np.asarray(F.normalize(part) if self.architecture.normalize else part)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `model.json`, each whole or not at all."""
        weights = save({key: value.contiguous() for key, value in self.embedder.state_dict().items()})
        description = {
            **asdict(self.architecture),
            "metric": METRIC,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "trained_classes": self.trained_classes,
            "calibration": self.calibration and asdict(self.calibration),
        }
        write_file(folder / WEIGHTS, weights)
        write_file(folder / DESCRIPTION, json.dumps(description, indent=1).encode())


def create_embedder(
    backbone: nn.Module, embedding_size: int, pool: Pool, levels: Sequence[str] | None, side: int
) -> AnyEmbedder:
    """A network with one head, or one with a head for each level, for pictures of this side."""
    if levels is None:
        return Embedder(backbone, embedding_size, pool)
    return MultiLevelEmbedder(backbone, levels, embedding_size, side, pool)


def load(run: str | Path) -> Model:
    """The model of a run's folder, on the GPU where there is one.

    Raises:
        InputError: The folder holds no model, or its two files do not belong together.
    """
    folder = Path(run)
    for name in (WEIGHTS, DESCRIPTION):
        if not (folder / name).is_file():
            raise InputError(f"expected the folder of a finished run, but {folder} holds no {name}; train one first")
    description = read_mapping(folder / DESCRIPTION, json.loads, AGAIN)
    try:
        architecture = Architecture(
            backbone=description["backbone"],
            embedding_size=description["embedding_size"],
            pool=description["pool"],
            normalize=description["normalize"],
            image=Preprocessing(**description["image"]),
            levels=tuple(description["levels"]) if description.get("levels") else None,
            per_level_norm=description.get("per_level_norm", False),
        )
        expected, trained = description["sha256"], description["trained_classes"]
        check_types(architecture, trained)
        calibration = Calibration.of(description.get("calibration"))
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise InputError(f"{folder / DESCRIPTION} does not describe a model ({error}); {AGAIN}") from error
    if hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() != expected:
        raise InputError(
            f"{folder / WEIGHTS} is not the file that {DESCRIPTION} describes (another sha256); copy both from one run"
        )
    embedder = create_embedder(
        Backbone(architecture.backbone).build(),
        architecture.embedding_size,
        architecture.pool,
        architecture.levels,
        architecture.image.size,
    )
    fill(embedder, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    embedder.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Model(embedder, architecture, trained, calibration, expected)


def check_types(architecture: Architecture, trained: object) -> None:
    """Refuse what no type checker would have let pass, had it not come from a file.

    Raises:
        ValueError: A value that no embedder has, or other names of classes than a list of them.
    """
    image, levels = architecture.image, architecture.levels
    usable = {
        "backbone": isinstance(architecture.backbone, str),
        "embedding_size": type(architecture.embedding_size) is int and 1 <= architecture.embedding_size <= LONGEST,
        "pool": architecture.pool in get_args(Pool),
        "normalize": isinstance(architecture.normalize, bool),
        "image": {type(image.size), type(image.resize)} <= {int, type(None)},
        "levels": levels is None or all(isinstance(level, str) for level in levels),
        "per_level_norm": isinstance(architecture.per_level_norm, bool),
    }
    for name, good in usable.items():
        if not good:
            raise ValueError(f"{name} cannot be {getattr(architecture, name)!r:.80}")
    if not isinstance(trained, list) or not all(isinstance(name, str) for name in trained):
        raise ValueError(f"trained_classes cannot be {trained!r:.80}")
