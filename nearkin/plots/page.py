"""Data + our own scripts -> one HTML page that is complete in itself and safe to open.

Whatever text the data holds is never part of the markup: it travels as JSON, which the scripts insert as
text. The page's policy makes the browser keep this promise: it runs no script but ours and fetches nothing.
"""

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

ASSETS = files("nearkin.plots") / "report"


@dataclass(frozen=True)
class Kind:
    """The parts of one kind of page; a script may use those before it."""

    body: str
    styles: tuple[str, ...]
    scripts: tuple[str, ...]


REPORT = Kind(
    "report.html",
    ("report.css",),
    ("dom.js", "axes.js", "curves.js", "map.js", "stage.js", "classes.js", "neighbours.js", "report.js"),
)
COMPARISON = Kind(
    "comparison.html",
    ("report.css", "comparison.css"),
    ("dom.js", "axes.js", "map.js", "stage.js", "neighbours.js", "differences.js", "comparison.js"),
)


def page(title: str, data: Mapping[str, Any], kind: Kind = REPORT) -> str:
    """Fill in the template.

    Args:
        title: Shown on the browser's tab.
        data: What the scripts draw; numbers must be finite.
        kind: Which page.
    """
    style, script = _joined(kind.styles), _joined(kind.scripts)
    return Template(_joined(["page.html"])).substitute(
        body=_joined([kind.body]),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        # ASCII: a file name that is no valid Unicode must not keep the page from being written.
        title=html.escape(title).encode("ascii", "xmlcharrefreplace").decode(),
        style=style,
        data=script_json(data),
        script=script,
    )


def _joined(names: Iterable[str]) -> str:
    return "\n".join(ASSETS.joinpath(name).read_text(encoding="utf-8") for name in names)


def script_json(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or opens a comment."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def plain(value: Any) -> Any:
    """Reduce nested values of any kind to what JSON has; what it lacks (infinity, a path) becomes text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _hash(text: str) -> str:
    """The source expression of a content security policy that admits exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
