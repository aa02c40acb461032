"""Give a tile a patch of an image, and the keys around it, where a mask looks at rows and columns.

before, for images of 128 columns::

    attn.attend over "b < B, h < H, i < N" ... source "j < N" ...
      mask "abs(i // 128 - j // 128) <= 6 and abs(i % 128 - j % 128) <= 6"

after, with patches of 8 rows and 16 columns::

    attn.attend over "b < B, h < H, y < (N // 128 + 7) // 8, x < 8, i < min(8, N // 128 - y * 8) * 16" ...
      source "j < (min(N // 128, y * 8 + 14) - max(y * 8 - 6, 0)) * 28" key %k "b, h, <row j // 28, column j % 28>, d"
      mask "abs(...) <= 6 and abs(...) <= 6"

128 queries in a line see 13 whole rows of keys, a tenth of which are live; those of a patch see a box of 20 x 28.  In
a video, patches and boxes have three directions.  For GPUs, whose tiles are large; a CPU's small ones fit in a row
(``image-rows``).

Gradients get patches from ``gradient-kernels``, those of keys as well as those of queries.  In their pipeline the pass
comes with ``guards_only``: it leaves attention as it is, and requires what the forward plan relies on.

Legality: a change of variables of the rows, one to one, under the guard that rows are whole; every key that a patch
sees is in its box once, and the mask decides about the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import TRUE, Expr, evaluate, free_vars
from ..analysis.cost import NOMINAL_LENGTH, device, timings
from ..analysis.segments import images
from .common import change_attends, facts_about, fresh, moved_maps, work_of
from .inner_products import products_of
from .patches import NAMES, SHAPES, Patches, patches, whole_images
from .rewriting import replace as replace_op

PATCHES = SHAPES[128] + SHAPES[64]


@dataclass(frozen=True)
class ImagePatches(ModulePass):
    """Options: ``target`` is the device; ``names`` and ``values`` are the sizes of the call at hand.

    With ``guards_only`` only the guards are required that patches would rely on.
    """

    name = "image-patches"
    target: str = "sm_90"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    guards_only: bool = False

    def apply(self, ctx: Context, module: ModuleOp) -> None:
        sizes = dict(zip(self.names, self.values, strict=True))
        if not sizes or not device(self.target).is_gpu:
            return
        change_attends(module, lambda attend, facts: self._change(attend, facts, sizes))

    def _change(self, attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int]) -> list[Expr]:
        """Rewrite one attention if that pays; the guards that it then relies on."""
        if attend.tiles is not None or products_of(attend):
            return []  # products want rows and keys that count one by one
        row, masks = attend.domain[-1], [s.mask for s in attend.source_list]
        for inner in images(masks, lambda x: row.name in free_vars(x)):
            whole = whole_images([row.extent, *(s.extent for s in attend.source_list)], inner)
            whole = [g for g in whole if not facts_about(attend.domain, facts).always(g)]
            if any(not free_vars(g) <= sizes.keys() or not evaluate(g, sizes) for g in whole):
                continue
            known = (*facts, *whole)
            walked = [(Dim(s.key, s.extent), s.mask) for s in attend.source_list]
            names = tuple(fresh(name, attend) for name in NAMES)[-len(inner) - 1 :]
            shapes = [size for size in PATCHES if len(size) == len(inner) + 1]
            found = [(p, s) for s in shapes if (p := patches(attend.domain, walked, inner, s, names, known))]
            if not found:
                continue
            on, work = device(self.target), work_of(attend, known)
            timed = []
            for patch, shape in found:
                # a tile sees the whole of its box
                boxes = [attn.Source(s.key, box.dim.extent, (), (), TRUE, s.score)
                         for s, box in zip(work.sources, patch.boxes, strict=True)]  # fmt: skip
                after = replace(work, domain=patch.domain, sources=tuple(boxes))
                times = timings(after, on, NOMINAL_LENGTH, rows=math.prod(shape), like=work)
                timed += [(time, tiles, patch) for tiles, time in times.items()]
            time, tiles, best = min(timed, key=lambda x: x[0])
            if time < min(timings(work, on, NOMINAL_LENGTH).values()):
                if not self.guards_only:
                    new = _by_patches(attend, best, tiles, known)
                    new.attributes["patch"] = UnitAttr()
                    replace_op(attend, new)
                return whole
        return []


def _by_patches(
    attend: attn.AttendOp, found: Patches, tiles: tuple[int, int], facts: tuple[Expr, ...]
) -> attn.AttendOp:
    """The same with rows in patches and keys in boxes."""
    boxed = zip(attend.source_list, found.boxes, strict=True)
    sources = [box.source(s, found.domain, box.dim.extent, facts) for s, box in boxed]
    maps = moved_maps(attend, found.domain, found.held, facts)
    return attend.rebuilt(dims=found.domain, sources=tuple(sources), tiles=tiles, **maps)
