"""The pass pipelines, in order, each with the reason for its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .passes import load_pass

if TYPE_CHECKING:
    from xdsl.passes import ModulePass


def forward(target: str, narrow: bool) -> list[ModulePass]:
    """From what is computed to how: ``attn.attend`` to tiled kernels for a device.

    ``target`` names a device of :mod:`.analysis.cost`; ``narrow`` rounds probabilities to the values' dtype
    before they meet the values, as matrix units want them.
    """
    plan: list[tuple[str, dict[str, object]]] = [
        # First: everything after reads masks, and redundant conjuncts hide structure.
        ("simplify-masks", {}),
        # Before the domain is split: a reorder is a rewrite of the maps that the splits then substitute into.
        ("fold-reorders", {}),
        # Before dilation: inside a block the residue classes of the block are found again, not the other way round.
        ("block-diagonal", {"target": target}),
        ("dilation", {"target": target}),
        # After every change of the domain: the tile depends on the rows and keys that are left.
        ("choose-tiles", {"target": target}),
        # Needs tiles.
        ("online-softmax", {"narrow": narrow}),
        # Needs the loops that online-softmax makes, and its final masks.
        ("key-ranges", {}),
    ]
    return [load_pass(name)(**options) for name, options in plan]
