"""FlexAttention's signatures: ``from attnc import flex_attention, create_block_mask`` instead of PyTorch's.

A ``mask_mod`` and a ``score_mod`` are called once, with the positions of all pairs as tensors that broadcast, and what
they say is read as any eager code is.  So there is no block mask to make: :func:`create_block_mask` only keeps the
function.  (Dong et al. 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels".)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from .attention import ScoreMod, check_heads, check_tensors, run
from .errors import ArgumentError, ShapeError
from .patterns import MaskMod


@dataclass(frozen=True)
class BlockMask:
    """A mask over (B, H, Q_LEN, KV_LEN); a B or H of None stands for all."""

    mask_mod: MaskMod
    shape: tuple[int | None, int | None, int, int]


class AuxOutput(NamedTuple):
    """What ``return_aux`` asks for: ``lse``, (B, H, N) in float32, natural; ``max_scores`` is not computed."""

    lse: Tensor | None = None
    max_scores: Tensor | None = None


def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,  # noqa: N803 (PyTorch's names, here and below)
    H: int | None,  # noqa: N803
    Q_LEN: int,  # noqa: N803
    KV_LEN: int,  # noqa: N803
    device: Any = None,
    BLOCK_SIZE: int | tuple[int, int] = 128,  # noqa: N803
    _compile: bool = False,
    **options: Any,
) -> BlockMask:
    """The mask where ``mask_mod(b, h, q_idx, kv_idx)`` is true, for :func:`flex_attention`; made in no time.

    Block sizes, the device and other options are accepted and say nothing: tiles are chosen when kernels are made.
    """
    if not callable(mask_mod):
        raise ArgumentError(f"mask_mod must be a function of (b, h, q_idx, kv_idx), not {type(mask_mod).__name__}")
    return BlockMask(mask_mod, (B, H, Q_LEN, KV_LEN))


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: Any = None,
    backend: str = "auto",
    fallback: str = "warn",
) -> Any:
    """Attention as PyTorch's ``flex_attention`` defines it, fused, on the CPU with gradients too.

    ``query`` is (B, H, N, D), ``key`` (B, H, M, D) and ``value`` (B, H, M, E); with ``enable_gqa`` key and value may
    have fewer heads.  ``score_mod(score, b, h, q_idx, kv_idx)`` changes a score after it is scaled by ``scale``
    (default D ** -0.5); both functions may read tensors, and tensors that a score reads get gradients.  Queries without
    a key give 0 and a log-sum-exp of -inf.  ``kernel_options`` say nothing here; ``backend`` and ``fallback`` are those
    of :func:`attnc.compile`.  Returns (B, H, N, E), with ``return_lse`` also the natural log-sum-exp, (B, H, N) in
    float32.

    Raises :class:`ArgumentError`, :class:`RankError` or :class:`ShapeError` for what PyTorch refuses, for a
    ``BlockMask`` of PyTorch's, and for ``return_aux.max_scores``.
    """
    _check(query, key, value, block_mask, enable_gqa, return_aux)
    mask = None if block_mask is None else block_mask.mask_mod
    wants = return_lse or bool(getattr(return_aux, "lse", False))
    found = run(query, key, value, mask, score_mod, scale, None, 0, wants, backend, fallback)
    if return_aux is not None:
        return (found[0], AuxOutput(lse=found[1])) if wants else (found, AuxOutput())
    return found


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Any, enable_gqa: bool, aux: Any) -> None:
    check_tensors("flex_attention", query, key, value)
    if mask is not None and not isinstance(mask, BlockMask):
        raise ArgumentError(
            f"block_mask is a {type(mask).__module__}.{type(mask).__name__}; make it with attnc.create_block_mask, "
            "which takes the same arguments: attnc reads the formula, not blocks made from it"
        )
    if getattr(aux, "max_scores", False):
        raise ArgumentError("return_aux.max_scores is not supported; ask for lse, or compute scores.amax(-1)")
    heads, groups = query.shape[1], key.shape[1]
    if heads != groups and not enable_gqa:
        raise ShapeError(f"query has {heads} heads and key {groups}; pass enable_gqa=True to share heads")
    check_heads(query, key)
    if mask is None:
        return
    for name, made, has in zip(
        ("B", "H", "Q_LEN", "KV_LEN"), mask.shape, (*query.shape[:3], key.shape[2]), strict=True
    ):
        if made not in (None, has) and not (made == 1 and name in ("B", "H")):
            raise ShapeError(
                f"block_mask was made for {name}={made}, and this call has {has}; make another, it is free"
            )
