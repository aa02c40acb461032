"""The pass pipelines, in order, each with the reason for its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .passes import load_pass

if TYPE_CHECKING:
    from xdsl.passes import ModulePass


def forward(target: str, narrow: bool, sizes: Mapping[str, int] | None = None) -> list[ModulePass]:
    """From what is computed to how: ``attn.attend`` to tiled kernels for a device.

    ``target`` names a device of :mod:`.analysis.cost`; ``narrow`` rounds probabilities to the values' dtype
    before they meet the values, as matrix units want them.  ``sizes`` are those of the call at hand.
    """
    at_hand: dict[str, object] = {"target": target, **_at_hand(sizes)}
    return _load(
        [
            *_domain(target, sizes),
            # Before image-rows, which takes what has no patches.  Only here: the gradient of the keys would walk the
            # image rows, or patches, one by one, so gradient-kernels makes its own.
            ("image-patches", at_hand),
            # After what gradients have as well, and nothing else: both then rely on the same guards.
            ("pack-groups", at_hand),
            ("image-rows", {"target": target}),
            # After every change of the domain, for it counts the rows that are left; it may choose tiles itself.
            ("few-rows", at_hand),
            # Only few rows are worth it, and few-rows says which are few.
            ("split-keys", at_hand),
            # After every change of the domain: the tile depends on the rows and keys that are left.
            ("choose-tiles", at_hand),
            # Needs tiles.
            ("online-softmax", {"narrow": narrow}),
            # Needs the loops that online-softmax makes, and its final masks.
            ("key-ranges", {"strip": _strip(target, narrow)}),
        ]
    )


def gradient(
    target: str,
    narrow: bool,
    fused: bool,
    wanted: Sequence[str] = (),
    given: Sequence[int] = (),
    sizes: Mapping[str, int] | None = None,
) -> list[ModulePass]:
    """The same for the function's gradient.

    ``wanted`` and ``given`` are those of ``differentiate``; ``fused`` computes the gradients of queries and keys in
    one kernel.
    """
    return _load(
        [
            # The forward function's: what makes its masks dense does so for the gradient, whose domain is the same.
            *_domain(target, sizes),
            # What the forward plan relies on, gradient-kernels may, too.
            ("image-patches", {"target": target, **_at_hand(sizes), "guards_only": True}),
            # As in the forward pipeline.
            ("pack-groups", {"target": target, **_at_hand(sizes)}),
            # Before tiles, which the gradient wants of another shape.
            ("differentiate", {"wanted": tuple(wanted), "given": tuple(given)}),
            ("choose-tiles", {"target": target}),
            # Needs tiles.
            ("gradient-kernels", {"narrow": narrow, "fused": fused}),
            # Needs the loops that gradient-kernels makes, over keys and over rows.
            ("key-ranges", {}),
        ]
    )


def _strip(target: str, narrow: bool) -> int:
    """Rows that a device computes at a time where a mask bites, if fewer than a tile's."""
    from .analysis.devices import device
    from .analysis.space import SIDE

    if not target.startswith("cpu"):
        return 0
    on = device(target)
    return SIDE if on.matrix and narrow else 0


def _at_hand(sizes: Mapping[str, int] | None) -> dict[str, object]:
    """The sizes of a call as options of passes."""
    return {"names": tuple(sizes or {}), "values": tuple((sizes or {}).values())}


def _domain(target: str, sizes: Mapping[str, int] | None) -> list[tuple[str, dict[str, object]]]:
    """Passes that change what the domain of an attention is."""
    return [
        # Before anything reads scores and masks: divisions that cancel hide structure, too.
        ("pin-sizes", _at_hand(sizes)),
        # First: everything after reads masks, and redundant conjuncts hide structure.
        ("simplify-masks", {}),
        # Before the domain is split: a reorder is a rewrite of the maps that the splits then substitute into.
        ("fold-reorders", {}),
        # Before dilation: inside a block the residue classes of the block are found again, not the other way round.
        ("block-diagonal", {"target": target}),
        ("dilation", {"target": target}),
        # After simplify-masks, which fills may leave; before all that gradients do not share: both must agree.
        ("keep-weights", {"target": target, **_at_hand(sizes)}),
    ]


def _load(plan: Sequence[tuple[str, dict[str, object]]]) -> list[ModulePass]:
    return [load_pass(name)(**options) for name, options in plan]
