"""What tuned results are found by: the pattern, the class of its lengths, the device and the versions."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ...backends.host import processor
from ..lowering import BACKENDS

if TYPE_CHECKING:
    import torch
    from xdsl.dialects.builtin import ModuleOp

Lengths = tuple[int, ...]  # exponents: a length n is in class e when 2 ** (e - 1) < n <= 2 ** e


@dataclass(frozen=True)
class Pattern:
    """An ``attn`` module without the names in it.  ``sizes`` are its symbols for the lengths of rows and keys."""

    digest: str
    sizes: tuple[str, ...]

    def lengths(self, values: Mapping[str, Any]) -> Lengths | None:
        """The class of a call with these sizes, or None if one is not known."""
        if not values.keys() >= set(self.sizes):
            return None
        return tuple(length_class(values[name]) for name in self.sizes)


_WORDS = frozenset(("query", "key", "value", "source", "mask", "score", "out"))  # of the syntax, and of users


def length_class(n: int) -> int:
    """The exponent of the smallest power of two that is not below ``n``."""
    return max(int(n) - 1, 0).bit_length()


def distance(a: Lengths, b: Lengths) -> int:
    """How far two classes are apart, in doublings."""
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def pattern_of(module: ModuleOp) -> Pattern:
    """The pattern of a raised module.  Names of the function, its arguments, sizes and values make no difference."""
    from xdsl.dialects.builtin import ArrayAttr, StringAttr

    from ...ir import attn
    from ...ir.expr import free_vars
    from ...ir.text import forget_lines, print_module

    module = module.clone()
    forget_lines(module)
    func = attn.func_of(module)
    bound = func.sizes()
    found: dict[str, None] = {}
    func.sym_name = StringAttr("f")
    for op in module.walk():
        op.attributes.pop("at", None)
        for value in (*op.results, *(arg for region in op.regions for block in region.blocks for arg in block.args)):
            value.name_hint = None
        if isinstance(op, attn.AttendOp):
            for extent in (op.domain[-1].extent, *(s.extent for s in op.source_list)):
                found |= dict.fromkeys(sorted(free_vars(extent) & bound.keys()))
    names = {name: f"a{n}" for n, name in enumerate(func.names) if name not in _WORDS}
    names |= {name: f"s{n}" for n, name in enumerate(bound)}
    func.arg_names = ArrayAttr([StringAttr(f"a{n}") for n in range(len(func.names))])
    text = re.sub(r"(?<![\w.@])[A-Za-z_]\w*", lambda m: names.get(m[0], m[0]), print_module(module))
    return Pattern(hashlib.sha256(text.encode()).hexdigest(), tuple(found))


@dataclass(frozen=True)
class Place:
    """Where a result holds: the device it was measured on, and the versions of what generated the code."""

    device: str
    versions: str

    @staticmethod
    def of(backend: str, device: torch.device, target: str) -> Place:
        package = importlib.import_module((__package__ or "").rsplit(".", 2)[0])
        versions = [f"attnc {package.__version__}", *_versions(("torch", BACKENDS[backend][1].replace("_", "-")))]
        # figures measured of a device, which follow an @, change what is predicted, not what was measured
        return Place(f"{target.partition('@')[0]}: {_device_name(device.type, device.index)}", ", ".join(versions))


def _versions(packages: Iterable[str]) -> Iterable[str]:
    for package in packages:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            yield f"{package} absent"


@cache
def _device_name(kind: str, index: int | None) -> str:
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_name(index)
    return processor()
