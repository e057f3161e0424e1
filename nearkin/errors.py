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


def printable(text: str) -> str:
    """Text that a terminal only shows: what could move its cursor, colour it or cannot be encoded stands as `repr` has
    it, such as `\\x1b`."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def check_unicode(what: str, text: str) -> None:
    """See that a text can be written: what comes from a command line need not be.

    Raises:
        InputError: It is no Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"expected {what} in UTF-8, got {printable(text)}; name another") from error
