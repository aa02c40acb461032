"""The passes by name; a pass is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ...ir.errors import AttncError

if TYPE_CHECKING:
    from xdsl.passes import ModulePass

# name -> "module:class", in pipeline order
PASSES = {
    "pin-sizes": "pin_sizes:PinSizes",
    "simplify-masks": "simplify_masks:SimplifyMasks",
    "fold-reorders": "fold_reorders:FoldReorders",
    "block-diagonal": "block_diagonal:BlockDiagonal",
    "dilation": "dilation:Dilation",
    "keep-weights": "keep_weights:KeepWeights",
    "image-patches": "image_patches:ImagePatches",
    "pack-groups": "pack_groups:PackGroups",
    "image-rows": "image_rows:ImageRows",
    "few-rows": "few_rows:FewRows",
    "split-keys": "split_keys:SplitKeys",
    "choose-tiles": "choose_tiles:ChooseTiles",
    "online-softmax": "online_softmax:OnlineSoftmax",
    "key-ranges": "key_ranges:KeyRanges",
    "differentiate": "differentiate:Differentiate",
    "gradient-kernels": "gradient_kernels:GradientKernels",
}


class UnknownPassError(AttncError):
    """A pass name that is not in the table."""


def load_pass(name: str) -> type[ModulePass]:
    """The class of a pass.  Raises :class:`UnknownPassError`."""
    if name not in PASSES:
        raise UnknownPassError(f"there is no pass {name!r}; passes: {', '.join(PASSES)}")
    module, cls = PASSES[name].split(":")
    return getattr(import_module(f".{module}", __name__), cls)
