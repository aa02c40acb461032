"""What the tracer knows about each PyTorch op: its canonical node and its symbolic shape."""

from __future__ import annotations

from . import conversions, convolutions, creation, images, indexing, layout, pointwise, products, reductions
from .indexing import put_back
from .opened import opened
from .registry import EARLY, FACTORIES, PROBED, RENAMED, RULES, SAME
from .unknown import copy_, in_place, unknown

RULES["copy_"] = copy_
FACTORIES.update(creation.FOUND_BY_NAME)
FACTORIES.update(("tensor", "as_tensor", "scalar_tensor"))
TRANSPARENT = frozenset({"__set__", "__class__", "is_tensor", "manual_seed"})

__all__ = [
    "EARLY",
    "FACTORIES",
    "PROBED",
    "RENAMED",
    "RULES",
    "SAME",
    "TRANSPARENT",
    "conversions",
    "convolutions",
    "copy_",
    "creation",
    "images",
    "in_place",
    "indexing",
    "layout",
    "opened",
    "pointwise",
    "products",
    "put_back",
    "reductions",
    "unknown",
]
