"""The rivals of the GPU run.  What they need in advance, block masks and mask tensors, is made here and timed apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from gpu_patterns import POOL, SWIN, Attention, Live, blocks_before, mask_of, own_past, pooled
from gpu_plan import CUDNN, FLASH, FLEX, Case
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

MOST_MASK = 1 << 29  # pairs of a mask tensor: beyond 16k tokens it is no way to call SDPA
MOST_EAGER = 1 << 24  # pairs of a block mask
_BACKENDS = {CUDNN: SDPBackend.CUDNN_ATTENTION, FLASH: SDPBackend.FLASH_ATTENTION}


class AbsentError(Exception):
    """A rival cannot compute this pattern; the message says why."""


def rival(name: str, case: Case, device: str, tuned: bool) -> Attention:
    """The rival called ``name``, ready to be called.  ``tuned``: FlexAttention searches for its best tiles."""
    if name == FLEX:
        return _flex(case, device, tuned)
    return _on_backend(_BACKENDS[name], _sdpa(name, case, device))


# ---- SDPA


def _sdpa(name: str, case: Case, device: str) -> Attention:
    match case.pattern:
        case "dense":
            return F.scaled_dot_product_attention
        case "causal":
            return partial(F.scaled_dot_product_attention, is_causal=True)
        case "decode":
            return partial(F.scaled_dot_product_attention, enable_gqa=True)
        case "swin":
            return partial(_swin, side=case.side)
    if name == FLASH:
        raise AbsentError("takes no mask")
    live = mask_of(case)
    assert live is not None
    keys = case.tokens + (case.tokens // POOL if case.pattern == "hierarchical" else 0)
    if case.tokens * keys > MOST_MASK:
        raise AbsentError(f"its mask would hold {case.tokens * keys:,} elements")
    i, j = (torch.arange(n, device=device) for n in (case.tokens, keys))
    masked = partial(F.scaled_dot_product_attention, attn_mask=live(i[:, None], j[None, :]))
    if case.pattern == "hierarchical":
        return lambda q, k, v: masked(q, *(torch.cat([pooled(x), x], -2) for x in (k, v)))
    return masked


def _swin(q: Tensor, k: Tensor, v: Tensor, side: int) -> Tensor:
    """Windows as a batch."""
    b, h, n, d = q.shape
    rows = side // SWIN
    grid = (b, h, rows, SWIN, rows, SWIN, d)
    q, k, v = (x.reshape(grid).permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, h, SWIN * SWIN, d) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return out.reshape(b, rows, rows, h, SWIN, SWIN, d).permute(0, 3, 1, 4, 2, 5, 6).reshape(b, h, n, d)


def _on_backend(backend: SDPBackend, attention: Attention) -> Attention:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return attention(q, k, v)

    return call


# ---- FlexAttention


def _flex(case: Case, device: str, tuned: bool) -> Attention:
    if case.pattern == "hierarchical":
        own = _block_mask(own_past, case.tokens, case.tokens, device)
        past = _block_mask(blocks_before, case.tokens, case.tokens // POOL, device)
        return _compiled(lambda q, k, v: _merged(q, k, v, own, past), device, tuned)
    live, mask = mask_of(case), None
    if live is not None:
        mask = _block_mask(live, case.tokens, case.tokens, device)
    shared = case.pattern == "decode"
    return _compiled(lambda q, k, v: flex_attention(q, k, v, block_mask=mask, enable_gqa=shared), device, tuned)


def _merged(q: Tensor, k: Tensor, v: Tensor, own: Any, past: Any) -> Tensor:
    """Two calls, of the fine and of the coarse keys, and their results merged by their normalisers."""
    both: Any = flex_attention  # its type says that there may be no normaliser
    fine, own_aux = both(q, k, v, block_mask=own, return_aux=AuxRequest(lse=True))
    coarse, past_aux = both(q, pooled(k), pooled(v), block_mask=past, return_aux=AuxRequest(lse=True))
    total = torch.logaddexp(own_aux.lse, past_aux.lse)
    parts = (x * (aux.lse - total).exp()[..., None] for x, aux in ((fine, own_aux), (coarse, past_aux)))
    return sum(parts, torch.zeros_like(q)).to(q.dtype)


def _compiled(attention: Callable[..., Any], device: str, tuned: bool) -> Attention:
    if device == "cpu":  # a dry run: the script is tested, not the rival
        return attention
    mode = "max-autotune-no-cudagraphs" if tuned else None
    return torch.compile(attention, fullgraph=True, dynamic=False, mode=mode)


@cache
def _block_mask(live: Live, queries: int, keys: int, device: str) -> Any:
    make: Callable[..., Any] = create_block_mask
    if queries * keys > MOST_EAGER and device != "cpu":  # eagerly it would hold several integers for each pair
        make = torch.compile(create_block_mask)
    return make(lambda b, h, i, j: live(i, j), None, None, queries, keys, device=device)
