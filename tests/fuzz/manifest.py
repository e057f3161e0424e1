"""Any bytes to the manifest reader: pictures that are there, of named classes, or one line."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nearkin.data.manifest"]):
    from nearkin.data.manifest import read_manifest
    from nearkin.errors import InputError

PLACE = Path(tempfile.mkdtemp())
for name in ("a.jpg", "b.jpg", "c.jpg"):
    (PLACE / name).touch()


def look(data: bytes) -> None:
    file = PLACE / ("list.parquet" if data[:4] == b"PAR1" else "list.csv")
    file.write_bytes(data)
    line = ""
    try:
        images, split = read_manifest(file)
    except InputError as error:
        line = str(error)
    assert "\n" not in line.replace(repr(line)[1:-1], "")
    if line:
        return
    assert len(images.paths) == len(images.labels) > 0
    assert all(path.is_file() for path in images.paths)
    assert images.classes == sorted(set(images.classes))
    assert set(images.labels) == set(range(len(images.classes)))
    if split is not None:
        assert sorted([*split.train, *split.validation, *split.test]) == list(range(len(images.classes)))


if __name__ == "__main__":
    atheris.Setup(sys.argv, look)
    atheris.Fuzz()
