"""A catalogue: pictures, the embeddings that one model gave them, and how to find the nearest."""

import hashlib
import io
import os
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import numpy as np

from nearkin.calibration import Calibration
from nearkin.catalog.store import Store, Table, Vectors, open_store
from nearkin.data.images import Picture, Source, open_picture, read_image, unreadable
from nearkin.embed import DESCRIPTION, WEIGHTS, Model, load
from nearkin.errors import InputError, check_unicode

FORMAT = 1
"""Of the description."""

FALSE_MATCHES = 0.05
"""Share of the queries of unknown kinds that may find a match, unless asked otherwise."""

Crop = tuple[int, int, int, int]
"""x, y, width and height in pixels of the upright picture."""


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Args:
        path: Of the file.
        label: Its kind, if it has one.
        distance: From the query, Euclidean.
        match: Whether it is near enough to be of the query's kind; None where the model does not know its threshold.
        id: Of the picture in the catalogue.
        itself: Whether it is the query: a file of the same content.
    """

    path: str
    label: str | None
    distance: float
    match: bool | None
    id: str
    itself: bool = False


@dataclass(frozen=True)
class Answer(Sequence[Hit]):
    """What a search found: the sequence of its hits, and what they say together.

    Args:
        hits: Nearest first.
        threshold: Distance within which a hit is a match; None where the model does not know.
        names: The labels of the matches and how many each has, most first, the nearer first of equals. All hits count
            where there is no threshold; the query itself, where it is among them, never does.
        false_matches: Share of the queries of unknown kinds that the threshold is to let through.
    """

    hits: list[Hit]
    threshold: float | None
    names: list[tuple[str, int]]
    false_matches: float

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, place: int) -> Hit: ...

    @overload
    def __getitem__(self, place: slice) -> list[Hit]: ...

    def __getitem__(self, place: int | slice) -> Hit | list[Hit]:
        return self.hits[place]


class Catalog:
    """Pictures in a store, and the model that sees them.

    Args:
        store: Where they are.
        description: What is said of them there.
        model: What embeds queries, the same that embedded them.
    """

    def __init__(self, store: Store, description: dict[str, Any], model: Model) -> None:
        self.store, self.description, self.model = store, description, model
        self.table: Table = store.table(description["table"], model.architecture.width, make=False)

    @classmethod
    def open(cls, where: str | Path, run: str | Path | None = None) -> "Catalog":
        """Open a catalogue: a folder, or `http://HOST:19530`.

        Args:
            where: Its place.
            run: Folder of the model's run, if the catalogue cannot find it.

        Raises:
            InputError: There is none, or its model is not to be found or another one.
        """
        store = open_store(where)
        description = existing(store)
        try:
            return cls(store, description, model_of(store, description, run))
        except InputError:
            if store.description() == description:
                raise
            return cls.open(where, run)  # it has just changed over to another model

    @property
    def calibration(self) -> Calibration | None:
        """What the model knows of the distances between kinds."""
        return self.model.calibration

    def search(
        self,
        images: Source | Sequence[Source],
        k: int = 10,
        label: str | None = None,
        crop: Crop | None = None,
        false_matches: float = FALSE_MATCHES,
    ) -> Answer:
        """Find the pictures nearest to one, or to the mean of several.

        Queries that the catalogue holds are among the hits, but do not vote. They are known by the content of their
        files: arrays and Pillow images have none.

        Args:
            images: A picture, or several of one thing.
            k: Hits, at most.
            label: Only among the pictures of this kind.
            crop: The part of the picture that is meant.
            false_matches: Share of the queries of unknown kinds that may find a match.

        Raises:
            UnreadableImage: One cannot be read.
            InputError: k, the crop or the rate is out of range.
        """
        several = opened(images)
        contents = {hashlib.sha256(each.getbuffer()).hexdigest() for each in several if isinstance(each, io.BytesIO)}
        return self.nearest(self.embed(several, crop), k, label, false_matches, itself=contents)

    def embed(self, images: Source | Sequence[Source], crop: Crop | None = None) -> Vectors:
        """The embedding (D,) of a picture, or the mean of several, on the unit sphere if the model's are."""
        several = opened(images)
        if crop is not None:
            several = [cropped(read_image(image), crop) for image in several]
        mean = self.model.embed(several).mean(axis=0)
        if self.model.architecture.normalize:
            mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return np.asarray(mean, dtype=np.float32)

    def nearest(
        self,
        vector: Vectors,
        k: int = 10,
        label: str | None = None,
        false_matches: float = FALSE_MATCHES,
        but: str | None = None,
        itself: Collection[str] = (),
    ) -> Answer:
        """Find the pictures nearest to an embedding (D,); otherwise as `search`.

        Args:
            vector: The embedding.
            k: Hits, at most.
            label: Only among the pictures of this kind.
            false_matches: Share of the queries of unknown kinds that may find a match.
            but: Id of a picture that is left out.
            itself: Hashes of contents whose pictures do not vote.
        """
        if k < 1:
            raise InputError(f"expected at least 1 hit, got k={k}")
        if not 0 < false_matches < 1:
            raise InputError(f"the false-match rate is a share between 0 and 1, got {false_matches}")
        if label is not None:
            check_unicode("a label", label)
        pictures = self.table.count(label)
        threshold = None
        if self.calibration is not None:
            threshold = self.calibration.threshold(false_matches, pictures)
        found = self.table.nearest(vector[None], min(k + (but is not None), max(pictures, 1)), label)[0]
        others = [each for each in found if each.id != but]
        hits = [
            Hit(
                each.path,
                each.label,
                each.distance,
                None if threshold is None else each.distance <= threshold,
                each.id,
                each.sha256 in itself,
            )
            for each in others[:k]
        ]
        voting = [each.label for each in hits if each.match is not False and not each.itself]
        # Counter keeps the order of first appearance, so that of equals the nearer comes first.
        votes = Counter(label for label in voting if label is not None)
        return Answer(hits, threshold, votes.most_common(), false_matches)


def opened(images: Source | Sequence[Source]) -> list[Source]:
    """Pictures with the content of their files in memory: each is read once, as a pipe has to be.

    Raises:
        UnreadableImage: A file cannot be read.
        InputError: There is no picture.
    """
    several: list[Source] = list(images) if isinstance(images, list | tuple) else [cast(Source, images)]
    if not several:
        raise InputError("expected one or more pictures to search with, got none")
    return [in_memory(image) for image in several]


def in_memory(image: Source) -> Source:
    if isinstance(image, bytes):
        return io.BytesIO(image)
    if not isinstance(image, str | os.PathLike):
        return image
    path = os.fspath(image)
    try:
        with open_picture(path, pipe=True) as file:
            content = io.BytesIO(file.read())
    except OSError as error:
        raise unreadable(path, error) from error
    content.name = path  # of which errors speak
    return content


def described(store: Store) -> dict[str, Any] | None:
    """The description of a catalogue; None where there is none.

    Raises:
        InputError: It is not one that this nearkin understands.
    """
    description = store.description()
    if description is None:
        return None
    model = description.get("model")
    kinds = {"sha256": str, "kept": str, "embedding_size": int}
    whole = isinstance(model, dict) and all(isinstance(model.get(key), kind) for key, kind in kinds.items())
    if description.get("format") != FORMAT or not whole or not isinstance(description.get("table"), str):
        raise InputError(
            f"expected a catalogue of format {FORMAT}, but {store.where} is of format {description.get('format')} or "
            "incomplete; remove it and index the pictures anew, or name another"
        )
    return description


def existing(store: Store) -> dict[str, Any]:
    """The description of a catalogue that has to be there."""
    description = described(store)
    if description is None:
        raise InputError(
            f"expected a catalogue, but {store.where} holds none; make one: nearkin index RUN PHOTOS --catalog "
            f"{shlex.quote(store.where)}"
        )
    return description


def model_of(store: Store, description: dict[str, Any], run: str | Path | None = None) -> Model:
    """The model that a catalogue was made with.

    Raises:
        InputError: It is not where it was, or another one.
    """
    if run is None:
        run = store.model(description["model"]["kept"])
        if not all((run / file).is_file() for file in (WEIGHTS, DESCRIPTION)):
            raise InputError(
                f"expected the model of {store.where} in {run}, but it is not there; name a copy of the run that made "
                "it with --run"
            )
    model = load(run)
    check_model(store, description, model)
    return model


def check_model(store: Store, description: dict[str, Any], model: Model) -> None:
    """Refuse another model than the catalogue's: distances between embeddings of two models mean nothing.

    Raises:
        InputError: It is another one.
    """
    own, architecture = description["model"]["sha256"], model.architecture
    if model.sha256 == own:
        said = {name: description["model"].get(name) for name in ("image", "normalize")}
        if said != {"image": vars(architecture.image), "normalize": architecture.normalize}:
            raise InputError(
                f"{store.where} was made with the same weights but other preprocessing ({said}); use the run it was "
                "made with, or index the pictures anew"
            )
    else:
        raise InputError(
            f"{store.where} was made with the model {own[:12]}, and this is {model.sha256[:12]}; use the run it was "
            "made with, or bring the catalogue to this one: nearkin index --upgrade RUN --catalog "
            f"{shlex.quote(store.where)}"
        )


def cropped(picture: Picture, crop: Crop) -> Picture:
    """A part of a picture (H, W, 3).

    Raises:
        InputError: The part is empty or not inside.
    """
    x, y, width, height = crop
    if width < 1 or height < 1 or x < 0 or y < 0 or x + width > picture.shape[1] or y + height > picture.shape[0]:
        raise InputError(
            f"expected a crop x,y,w,h inside the picture of {picture.shape[1]} x {picture.shape[0]} pixels, "
            f"got {x},{y},{width},{height}"
        )
    return np.ascontiguousarray(picture[y : y + height, x : x + width])
