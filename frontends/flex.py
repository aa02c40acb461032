"""FlexAttention's signatures: ``from attnc import flex_attention, create_block_mask`` instead of PyTorch's.

A ``mask_mod`` and a ``score_mod`` are called once, with the positions of all pairs as tensors that broadcast, and what
they say is read as any eager code is.  So there is no block mask to make: :func:`create_block_mask` only keeps the
function.  (Dong et al. 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels".)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .closures import packed, unpacked
from .compiled import CompiledAttention, compile
from .errors import ArgumentError, RankError, ShapeError

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


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
    score = score_mod
    if not torch.compiler.is_dynamo_compiling():  # which guards on what functions hold by itself
        score, mask = packed((score, mask))
    wants = return_lse or bool(getattr(return_aux, "lse", False))
    attend = _COMPILED.get((backend, fallback)) or _compiled(backend, fallback)
    found = attend(query, key, value, score, mask, None if scale is None else float(scale), enable_gqa, wants)
    if return_aux is not None:
        return (found[0], AuxOutput(lse=found[1])) if wants else (found, AuxOutput())
    return found


_COMPILED: dict[tuple[str, str], CompiledAttention] = {}


def _compiled(backend: str, fallback: str) -> CompiledAttention:
    return _COMPILED.setdefault((backend, fallback), compile(_attention, backend=backend, fallback=fallback))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Any,
    mask_mod: Any,
    scale: float | None,
    enable_gqa: bool,
    return_lse: bool,
) -> Any:
    """What is compiled: the definition of FlexAttention."""
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    (batch, heads, rows), columns = query.shape[:3], key.shape[2]
    at = [
        torch.arange(n, device=query.device).view([-1 if axis == d else 1 for axis in range(4)])
        for d, n in enumerate((batch, heads, rows, columns))
    ]
    if score_mod is not None:
        scores = _four(unpacked(score_mod)(scores, *at), "score_mod").to(scores.dtype)
    if mask_mod is not None:
        scores = scores.masked_fill(~_four(unpacked(mask_mod)(*at), "mask_mod"), -torch.inf)
    out = scores.softmax(-1) @ value
    return (out, scores.float().logsumexp(-1)) if return_lse else out


def _four(x: Tensor, name: str) -> Tensor:
    if x.dim() not in (0, 4):
        raise RankError(
            f"{name} gave a tensor of {x.dim()} dimensions: it is called with the positions of all pairs at once, so "
            "index a tensor with all of them together: table[h, q_idx - kv_idx], not table[h][q_idx - kv_idx]"
        )
    return x


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Any, enable_gqa: bool, aux: Any) -> None:
    named = {"query": query, "key": key, "value": value}
    if wrong := [f"{name} has {x.dim()}" for name, x in named.items() if x.dim() != 4]:
        raise RankError(f"flex_attention takes tensors of 4 dimensions, (B, H, N, D); {', '.join(wrong)}")
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
    if enable_gqa and (not groups or heads % groups):
        raise ShapeError(f"the {heads} heads of query are no multiple of the {groups} of key")
    if mask is None:
        return
    for name, made, has in zip(
        ("B", "H", "Q_LEN", "KV_LEN"), mask.shape, (*query.shape[:3], key.shape[2]), strict=True
    ):
        if made not in (None, has) and not (made == 1 and name in ("B", "H")):
            raise ShapeError(
                f"block_mask was made for {name}={made}, and this call has {has}; make another, it is free"
            )
