"""How nearkin tells a person what is wrong."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """One line for a person: what was expected, what came, what to do. The command line exits with status 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """What to try instead of an unknown name: the nearest known one, or the first few where none is near."""
    choices = list(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(choices[:12]) or 'none'}"
