"""What a search found, for a terminal and for programs."""

from pathlib import Path
from typing import Any

from rich.cells import cell_len

from nearkin.calibration import Calibration
from nearkin.catalog.catalog import Answer
from nearkin.data.folder import count
from nearkin.errors import printable

FEW_CLASSES = 20
"""Below, false matches were up to twelve times as many as asked for in `benchmarks/calibration.py`."""

MARKS = {True: "match", False: "no match", None: ""}
ITSELF = "itself"


def as_json(answer: Answer) -> dict[str, Any]:
    """The answer as JSON has it, `hits` nearest first."""
    return {
        "hits": [
            {"path": hit.path, "label": hit.label, "distance": hit.distance, "match": hit.match} for hit in answer.hits
        ],
        "names": [{"label": label, "votes": votes} for label, votes in answer.names],
        "threshold": answer.threshold,
    }


def as_text(answer: Answer, calibration: Calibration | None) -> str:
    """A line for each hit, what they are by their labels, and how sure that is."""
    if not answer.hits:
        return "nothing found: no picture of this label, or none at all"
    here = Path.cwd()
    paths = [Path(hit.path) for hit in answer.hits]
    shown = [str(path.relative_to(here)) if path.is_relative_to(here) else str(path) for path in paths]
    labels = [printable(hit.label or "") for hit in answer.hits]
    width = max(map(cell_len, labels))
    lines = [
        f"{place:3d}  {hit.distance:7.4f}  {ITSELF if hit.itself else MARKS[hit.match]:8s}  {wide(label, width)}  "
        f"{printable(path)}"
        for place, (hit, label, path) in enumerate(zip(answer.hits, labels, shown, strict=True), start=1)
    ]
    return "\n".join([*lines, "", verdict(answer), certainty(answer, calibration)])


def wide(text: str, cells: int) -> str:
    """Text as wide as so many letters: on a terminal a Chinese one is as wide as two."""
    return text + " " * (cells - cell_len(text))


def verdict(answer: Answer) -> str:
    """What the picture is, as far as the matches tell."""
    others = [hit for hit in answer.hits if not hit.itself]
    if not others:
        return "no names: nothing was found but the picture itself"
    if answer.threshold is not None and not any(hit.match for hit in others):
        other = "else " if len(others) < len(answer) else ""
        return f"no match: nothing {other}here is near enough to be of the same kind"
    if not answer.names:
        return "no names: none of the matches has a label"
    total = sum(1 for hit in others if hit.match is not False)
    return "; ".join(f"{printable(label)}: {votes} of {count(total, 'vote')}" for label, votes in answer.names)


def certainty(answer: Answer, calibration: Calibration | None) -> str:
    """Where the line between match and no match comes from."""
    if answer.threshold is None or calibration is None:
        return "no threshold for a match: the run had too few classes to learn how near strangers come; train it anew"
    classes = count(calibration.classes, "class")
    text = (
        f"a match is within {answer.threshold:.4f}: of pictures whose kind is not here, about "
        f"{100 * answer.false_matches:g} % should find one, by {classes} "
    )
    if not calibration.held_out:
        return f"{text}of the training itself, so rather more do; hold some out with --data.validation 0.2"
    return f"{text}held out of the training" + ("; so few tell it roughly" if calibration.classes < FEW_CLASSES else "")
