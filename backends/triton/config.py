"""Launch parameters: warps, and as many pipeline stages as shared memory holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from xdsl.dialects.builtin import IntegerAttr

from ...ir.dtypes import itemsize
from ...ir.expr import walk
from ...ir.tile import BandDotOp, DotOp, ForOp, KernelOp, LoadOp, MaskOp, StoreOp, TileType, tile_type
from .facts import most
from .layout import padded
from .targets import Target
from .tasks import order_of

LONG_MASK = 8
SMALL = 32  # rows, and keys, of a tile; a warp's products have 16 rows
WARP_SPECIALIZED = (100,)  # architectures on which Triton gives the parts of a loop to warps of their own


@dataclass(frozen=True)
class Config:
    """How a kernel is launched on a target."""

    target: str
    num_warps: int
    num_stages: int
    descriptors: bool = False  # tiles of loops are fetched by tensor descriptors, where the call allows it
    warp_specialize: bool = False  # loads, products and the rest of a loop by warps of their own
    persistent: int = 0  # programs of each processor, which stay and walk the tasks; 0 is a program for each task


def candidates(kernel: KernelOp, target: Target) -> tuple[Config, ...]:
    """Configurations of a kernel that a search may time, the default first; a program is the same in all of them.

    Each can be put on the kernel as attributes: the fields' names, integers.  Some may not fit the device: compiling
    says so.  Half and double the warps, a stage less and more, and each option that the target has the other way round.
    """
    default = choose(kernel, target)
    found = [replace(default, num_warps=n) for n in (default.num_warps // 2, default.num_warps * 2) if 1 <= n <= 8]
    found += [replace(default, num_stages=n) for n in (default.num_stages - 1, default.num_stages + 1) if 1 <= n <= 4]
    if has_descriptors(target) and _describes(kernel, replace(default, descriptors=True)):
        found.append(replace(default, descriptors=not default.descriptors))
    if target.backend == "cuda" and int(target.arch) in WARP_SPECIALIZED:
        found.append(replace(default, warp_specialize=not default.warp_specialize))
    if order_of(kernel) is not None:
        found += [replace(default, persistent=n) for n in (1, 2)]
    return tuple(dict.fromkeys([default, *found]))


def has_descriptors(target: Target) -> bool:
    """Does the target's copy engine know tensor descriptors?"""
    return target.backend == "cuda" and int(target.arch) >= 90


def _describes(kernel: KernelOp, config: Config) -> bool:
    """Does the kernel make descriptors: are there 16-bit tiles of plain rows in its loops?"""
    from .module import print_module

    return any(kind == "flag" for _, kind in print_module(kernel, config).parameters)


def choose(kernel: KernelOp, target: Target) -> Config:
    """Four warps for tiles up to 64 rows, eight beyond; two to three stages as they fit in shared memory.

    NVIDIA's float32 products run on ordinary units, which hold operands and results in registers: eight warps from 64
    rows, and in gradients from 32, or from half as many whose features are 128 wide.  With four their main loops spill.
    So do kernels of gradients but on Hopper, whose rows of 64 belong to groups of four warps, and on Blackwell kernels
    with long masks, whose terms are in registers beside scores and the operands made of them.  Four waves of 64 lanes
    are enough for the largest tiles: eight repeat products of each other, and have half the registers.
    Small groups of 16 or 32 tokens have a warp for each 16 rows.

    The kernel's own attributes, named as the fields here, come first: they are an autotuner's choice.
    """
    rows = padded(kernel.rows.data.size)
    widest = max((padded(n) for op in kernel.body.walk() for r in op.results if isinstance(r.type, TileType)
                  for n in r.type.shape.values()), default=16)  # fmt: skip
    dots = [op for op in kernel.body.walk() if isinstance(op, DotOp)]
    scalar_dots = target.backend == "cuda" and any(
        itemsize(tile_type(v).element) == 4 for op in dots for v in (op.lhs, op.rhs)
    )  # AMD's matrix units take them
    spread = target.backend == "cuda" and target.arch != 90 and _heavy(kernel)
    spread |= target.backend == "cuda" and int(target.arch) >= 100 and _longest_mask(kernel) > LONG_MASK
    many = (32 if _heavy(kernel) else 64) if scalar_dots else 64 if spread else 128
    large = (16 if _heavy(kernel) else 32) if scalar_dots else 128
    warps = 8 if rows >= many or rows * widest >= large * 128 else 4
    if target.warp == 64:  # a wave of AMD's is as wide as two warps
        warps = 4
    if small(kernel) and not scalar_dots:
        warps = rows // 16
    stage = max((_stage_bytes(op) for op in kernel.body.walk() if isinstance(op, ForOp)), default=0)
    fixed = sum(_bytes(op.result.type) for op in kernel.body.block.ops if isinstance(op, LoadOp))
    stages = 3
    if target.backend == "hip":  # there, one stage waits in registers
        stages, fixed = 2, fixed - stage
    while stages > 1 and fixed + stages * stage > target.shared:
        stages -= 1
    return Config(
        target.name,
        _asked(kernel, "num_warps", warps),
        _asked(kernel, "num_stages", stages),
        bool(_asked(kernel, "descriptors", has_descriptors(target))),
        bool(_asked(kernel, "warp_specialize", False)),
        _asked(kernel, "persistent", 0),
    )


def small(kernel: KernelOp) -> bool:
    """Are pairs those of a group so small that four warps would repeat each other's products?"""
    loops = [op for op in kernel.body.walk() if isinstance(op, ForOp)]
    steps = [padded(op.step.data) for op in loops]
    once = all(most(r.hi) <= op.step.data for op in loops for r in op.range_list)
    return bool(steps) and once and 1 < padded(kernel.rows.data.size) <= SMALL and max(steps) <= SMALL


def _heavy(kernel: KernelOp) -> bool:
    """Does a step of a loop hold more products than scores and output, or add to memory?"""
    loops = [op for op in kernel.body.walk() if isinstance(op, ForOp)]
    products = [sum(isinstance(op, DotOp) for op in loop.body.walk()) for loop in loops]
    return max(products, default=0) > 2 or any(
        isinstance(op, StoreOp | BandDotOp) for loop in loops for op in loop.body.walk()
    )


def _longest_mask(kernel: KernelOp) -> int:
    """Operations and operands of the longest mask."""
    masks = [op.condition.data for op in kernel.body.walk() if isinstance(op, MaskOp)]
    return max((sum(1 for _ in walk(m)) for m in masks), default=0)


def _stage_bytes(loop: ForOp) -> int:
    return sum(_bytes(op.result.type) for op in loop.body.walk() if isinstance(op, LoadOp))


def _bytes(type: object) -> int:
    assert isinstance(type, TileType)
    count = itemsize(type.element)
    for n in type.shape.values():
        count *= padded(n)
    return count


def _asked(kernel: KernelOp, name: str, otherwise: int) -> int:
    value = kernel.attributes.get(name)
    return value.value.data if isinstance(value, IntegerAttr) else otherwise
