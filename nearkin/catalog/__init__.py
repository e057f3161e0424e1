"""A catalogue of pictures: index a folder with a trained model, search it, name new kinds by example."""

from nearkin.catalog.catalog import Answer, Catalog, Hit
from nearkin.catalog.indexing import index, name, upgrade

__all__ = ["Answer", "Catalog", "Hit", "index", "name", "upgrade"]
