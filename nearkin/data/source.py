"""The `data` settings of a run -> pictures and their class-disjoint split: the one way in for every command."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearkin.data.cars196 import CARS196
from nearkin.data.cub200 import CUB200
from nearkin.data.folder import ClassSplit, ImageList, hold_out, scan, split_classes
from nearkin.data.manifest import SUFFIXES, read_manifest
from nearkin.data.published import PublishedSet
from nearkin.data.sop import SOP
from nearkin.errors import InputError, nearest
from nearkin.files import absolute

PUBLISHED: dict[str, PublishedSet] = {each.name: each for each in (CUB200, CARS196, SOP)}


def published(name: str) -> PublishedSet:
    """A data set by its name.

    Raises:
        InputError: There is none of that name.
    """
    if name not in PUBLISHED:
        raise InputError(f"unknown data set {name!r}; {nearest(name, PUBLISHED)}")
    return PUBLISHED[name]


def short_form(value: Any) -> dict[str, Any]:
    """What `--data VALUE` says: the name of a data set, or else where the pictures are."""
    known = isinstance(value, str) and value in PUBLISHED
    return {"name": value if known else None, "root": None if known else value}


@dataclass(frozen=True)
class Data:
    """Which pictures.

    Args:
        root: Folder with one sub-folder of pictures per class; or a manifest, `.csv` or `.parquet`, with the columns
            path, label and, if wanted, split; or the folder of a data set that has a name. Unless there is an official
            or a given split, classes are sorted by name: the first half (rounded up) trains, the rest tests.
        name: cub200, cars196 or sop; null for pictures of your own.
        validation: Fraction of the *training* classes that is held out to choose the checkpoint by; with 0 the last
            one is taken.
        fold: Which of the parts of that size is held out, from 0: with 0.25, fold 2 is the third quarter of the
            training classes, shuffled by the run's seed.
        cache: Folder, outside that of the classes, where decoded pictures are kept for other runs and commands, and
            found; null decodes them each time. A picture that is new, or whose file has changed in any way, is read
            again.
    """

    root: Path
    name: str | None = None
    validation: float = 0.0
    fold: int = 0
    cache: Path | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Data":
        """From the `data` of a run's configuration.

        Raises:
            InputError: It is damaged.
        """
        cache = config.get("cache")
        try:
            return cls(**{**config, "root": Path(config["root"]), "cache": cache and Path(cache)})
        except (TypeError, LookupError) as error:
            raise InputError(
                f"data of config.yaml is damaged ({error}); bring the file back, or train the run anew"
            ) from error

    @classmethod
    def at(cls, root: str | Path | None, name: str | None) -> "Data":
        """From what a user says: the root made absolute, or the default one of a data set with a name.

        Raises:
            InputError: Neither is said, or there is no data set of that name, or the root is not the name of a place.
        """
        if name is not None:
            root = published(name).default_root if root is None else root
        if root is None:
            raise InputError(
                "no pictures: name a folder with one sub-folder per class, a manifest, or a data set "
                f"({', '.join(PUBLISHED)}) with --data"
            )
        return cls(absolute("data.root", root), name)

    def read(self) -> tuple[ImageList, ClassSplit | None]:
        """The pictures, and the split that comes with them, if one does.

        Raises:
            InputError: They are not there, or not as they should be.
        """
        if self.name is not None:
            return published(self.name).open(self.root)
        if not self.root.exists():
            raise InputError(
                f"expected a folder with one sub-folder of pictures per class, a manifest ({' or '.join(SUFFIXES)}) "
                f"or a data set ({', '.join(PUBLISHED)}), but {self.root} does not exist; name one with --data"
            )
        if self.root.suffix.lower() in SUFFIXES and self.root.is_file():
            return read_manifest(self.root)
        images = scan(self.root)
        for each in PUBLISHED.values():
            if images.classes == [each.folder]:
                raise InputError(f"{self.root} holds {each.title}: say --data {each.name} --data.root {self.root}")
        return images, None

    def open(self, seed: int) -> tuple[ImageList, ClassSplit]:
        """The pictures, and the classes that train, choose a checkpoint, and test.

        Args:
            seed: Picks the training classes that are held out.

        Raises:
            InputError: As `read`; or there are too few classes to train and to test on; or the cache would become one.
        """
        if self.cache is not None and self.name is None and self.root.resolve() in self.cache.resolve().parents:
            raise InputError(
                f"data.cache expects a folder outside {self.root}, where every sub-folder is a class of pictures, "
                f"got {self.cache}; name another"
            )
        images, given = self.read()
        if given is None:
            return images, split_classes(images, self.validation, seed, self.fold)
        if len(given.validation) and self.validation:
            raise InputError(
                f"{self.root} names its own validation classes, and data.validation {self.validation} would hold out "
                "others; leave one of the two out"
            )
        train, held_out = given.train, given.validation
        if not len(held_out):
            train, held_out = hold_out(given.train, self.validation, seed, self.fold)
        if len(train) < 2 or len(given.test) < 2:
            raise InputError(
                f"{self.root}: expected at least 2 classes to train on and 2 to test on, found {len(train)} and "
                f"{len(given.test)}"
            )
        return images, ClassSplit(train, held_out, given.test)
