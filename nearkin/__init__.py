"""nearkin: deep metric learning for image search.

`nearkin.losses` and `nearkin.metrics` are for any PyTorch program; `nearkin.load` opens a trained model,
`nearkin.Catalog` a catalogue of pictures.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearkin import losses, metrics
    from nearkin.catalog import Catalog
    from nearkin.embed import load

__all__ = ["Catalog", "load", "losses", "metrics"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line answers before torch has been loaded."""
    from importlib import import_module

    if name in ("losses", "metrics"):
        return import_module(f"nearkin.{name}")
    if name == "Catalog":
        return import_module("nearkin.catalog").Catalog
    if name == "load":
        return import_module("nearkin.embed").load
    raise AttributeError(f"module 'nearkin' has no attribute {name!r}")
