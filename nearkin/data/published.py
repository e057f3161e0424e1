"""Data sets that papers report on: got, checked, and opened with their official class-disjoint split."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nearkin.data.download import Progress, RemoteFile, fetch
from nearkin.data.folder import ClassSplit, ImageList, count, names
from nearkin.data.unpack import unpack
from nearkin.errors import InputError


@dataclass(frozen=True)
class Annotations:
    """What a data set's own files say.

    Attributes:
        paths: The n pictures.
        class_ids: Class of each picture, counted from 1 as these data sets do.
        class_names: Name of every class id that occurs.
    """

    paths: list[Path]
    class_ids: list[int]
    class_names: dict[int, str]


@dataclass(frozen=True)
class Counts:
    """Size of a data set: classes 1 to `train_classes` train, the next `test_classes` test."""

    train_images: int
    train_classes: int
    test_images: int
    test_classes: int

    def __str__(self) -> str:
        return (
            f"{count(self.train_images, 'picture')} of {count(self.train_classes, 'class')} to train on and "
            f"{self.test_images:,} of {self.test_classes:,} to test on"
        )


@dataclass(frozen=True)
class PublishedSet:
    """A data set with a name, an archive and an official split.

    Attributes:
        name: As on the command line.
        title: As in papers.
        files: What is to be got.
        folder: Where its pictures lie, below the root.
        read: From the root to what its annotations say; raises InputError where they are missing or damaged.
        counts: How many pictures and classes each part must have.
    """

    name: str
    title: str
    files: tuple[RemoteFile, ...]
    folder: str
    read: Callable[[Path], Annotations]
    counts: Counts

    @property
    def default_root(self) -> Path:
        return Path("data") / self.name

    def open(self, root: Path) -> tuple[ImageList, ClassSplit]:
        """List the pictures, and the classes of either part, once everything has been found to be there.

        Args:
            root: The folder that holds `folder`.

        Raises:
            InputError: Annotations are missing or damaged, pictures missing or empty, or there are more or fewer than
                expected.
        """
        try:
            found = self.read(root)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"expected {self.title} in {root}, but there is no {error.filename}; get it with: {self._get(root)}"
            ) from None
        self._check_counts(root, found)
        self._check_pictures(root, found)
        total = self.counts.train_classes + self.counts.test_classes
        images = ImageList(
            paths=found.paths,
            labels=np.array(found.class_ids, dtype=np.int64) - 1,
            classes=[found.class_names[number] for number in range(1, total + 1)],
        )
        classes = np.arange(total)
        first_test = self.counts.train_classes
        return images, ClassSplit(classes[:first_test], classes[:0], classes[first_test:])

    def get(self, root: Path, progress: Progress) -> None:
        """Download what is not yet in `root` and unpack what is not yet unpacked.

        Raises:
            InputError: A file must be brought by hand, or what came is not the published file.
            OSError: The folder cannot be written to, or the disk is full.
        """
        absent = [file for file in self.files if not (root / (file.folder or file.name)).exists()]
        by_hand = [file for file in absent if not file.urls and not (root / file.name).exists()]
        if by_hand:
            raise InputError(
                f"{self.title} cannot be downloaded: bring "
                f"{' and '.join(f'{file.name} (md5 {file.md5})' for file in by_hand)} from {by_hand[0].source} into "
                f"{root}, then run the command again"
            )
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"--root expects a folder, but there is a file at {root} or above; name another") from None
        for file in self.files:
            if file.folder and file not in absent:
                continue
            path = fetch(file, root, progress)
            if file.folder:
                unpack(path, file.folder, progress)

    def _check_counts(self, root: Path, found: Annotations) -> None:
        sizes = Counter(found.class_ids)
        total = self.counts.train_classes + self.counts.test_classes
        train = [number for number in sizes if 1 <= number <= self.counts.train_classes]
        test = [number for number in sizes if self.counts.train_classes < number <= total]
        actual = Counts(sum(sizes[c] for c in train), len(train), sum(sizes[c] for c in test), len(test))
        strange = sizes.keys() - {*train, *test}
        if actual != self.counts or strange:
            beyond = f", and {count(len(strange), 'class')} numbered beyond {total:,}" if strange else ""
            raise InputError(
                f"{self.title} in {root}: expected {self.counts}, found {actual}{beyond}; it is another edition or was "
                f"changed: {self._renew(root)}"
            )

    def _check_pictures(self, root: Path, found: Annotations) -> None:
        missing = [str(path.relative_to(root)) for path in found.paths if not (path.is_file() and path.stat().st_size)]
        if missing:
            raise InputError(
                f"{self.title} in {root}: {len(missing):,} of {count(len(found.paths), 'picture')} missing or empty: "
                f"{names(missing, 3)}; {self._renew(root)}"
            )

    def _get(self, root: Path) -> str:
        return f"nearkin data get {self.name} --root {root}"

    def _renew(self, root: Path) -> str:
        return f"move {root / self.folder} away and run {self._get(root)}"
