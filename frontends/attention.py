"""``attnc.attention``: attention by the name of its pattern, without writing it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .closures import packed, unpacked
from .compiled import CompiledAttention, compile
from .errors import ArgumentError, RankError, ShapeError
from .patterns import MaskMod, Pattern, Sources

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
_COMPILED: dict[tuple[str, str], CompiledAttention] = {}


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    pattern: Pattern | Sources | MaskMod | None = None,
    score: ScoreMod | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
    offset: int | Literal["end"] = 0,
    return_lse: bool = False,
    backend: str = "auto",
    fallback: str = "warn",
) -> Any:
    """Softmax attention of ``query`` (B, H, N, D) over ``key`` (B, G, M, D) and ``value`` (B, G, M, E), fused.

    G divides H: query heads in order share key heads.  ``pattern`` is one of :mod:`attnc.patterns`, or a function of
    (b, h, i, j), tensors that broadcast, that is true where query ``i`` sees key ``j``.  ``score(s, b, h, i, j)``
    changes a score after it is scaled by ``scale`` (default D ** -0.5); ``bias``, which broadcasts to (B, H, N, M), is
    added to it.  Query ``n`` stands at position ``n + offset``; ``"end"`` says that the last query stands at the last
    key, as in decoding.  ``backend`` and ``fallback`` are those of :func:`attnc.compile`.

    Returns (B, H, N, E) in the type of ``query``, with ``return_lse`` also the natural log-sum-exp of the scores,
    (B, H, N) in float32.  A query that sees no key gives 0 and -inf.

    Raises :class:`RankError` and :class:`ShapeError` for tensors that do not fit, :class:`ArgumentError` for the rest.
    """
    check_tensors("attention", query, key, value)
    check_heads(query, key)
    _check(pattern, score, bias, offset)
    return run(query, key, value, pattern, score, scale, bias, offset, return_lse, backend, fallback)


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: Any,
    score: ScoreMod | None,
    scale: float | None,
    bias: Tensor | None,
    offset: int | str,
    return_lse: bool,
    backend: str,
    fallback: str,
) -> Any:
    """The compiled :func:`definition`, for arguments that were checked."""
    if not torch.compiler.is_dynamo_compiling():  # which guards on what functions hold by itself
        pattern, score = packed((pattern, score))
    choice = backend, fallback
    attend = _COMPILED.get(choice) or _COMPILED.setdefault(
        choice, compile(definition, backend=backend, fallback=fallback)
    )
    factor = None if scale is None else float(scale)
    shared = key.shape[1] != query.shape[1]
    return attend(query, key, value, pattern, score, factor, bias, offset, shared, return_lse)


def definition(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: Any,
    score: Any,
    scale: float | None,
    bias: Tensor | None,
    offset: int | str,
    shared: bool,
    return_lse: bool,
) -> Any:
    """What is compiled."""
    if shared:
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    pooled = pattern.pooled if isinstance(pattern, Sources) else ()
    pattern = pattern.pattern if isinstance(pattern, Sources) else unpacked(pattern)
    scores = query @ key.mT * factor
    shift = key.shape[2] - query.shape[2] if isinstance(offset, str) else offset  # "end"
    at = _positions(query, key.shape[2], shift)
    if score is not None:
        scores = _four(unpacked(score)(scores, *at), "the score function").to(scores.dtype)
    if bias is not None:
        scores = scores + bias
    if pattern is not None:
        scores = scores.masked_fill(~_four(pattern(*at), "the mask function"), -torch.inf)
    parts, values = [scores], [value]
    for pool in pooled:
        blocks = key.shape[2] // pool.size
        keys, means = (x[:, :, : blocks * pool.size].unflatten(2, (blocks, pool.size)).mean(3) for x in (key, value))
        parts.append((query @ keys.mT * factor).masked_fill(~pool(*_positions(query, blocks, shift)), -torch.inf))
        values.append(means)
    if pooled:
        scores, value = torch.cat(parts, -1), torch.cat(values, 2)
    out = scores.softmax(-1) @ value
    return (out, scores.float().logsumexp(-1)) if return_lse else out


def _positions(query: Tensor, columns: int, shift: int) -> list[Tensor]:
    sizes = (*query.shape[:3], columns)
    at = [torch.arange(n, device=query.device).view([-1 if d == axis else 1 for d in range(4)])
          for axis, n in enumerate(sizes)]  # fmt: skip
    at[2] = at[2] + shift
    return at


def _four(x: Tensor, what: str) -> Tensor:
    if x.dim() not in (0, 4):
        raise RankError(
            f"{what} gave a tensor of {x.dim()} dimensions: it is called with the positions of all pairs at once, so "
            "index a tensor with all of them together: table[h, i - j], not table[h][i - j]"
        )
    return x


def check_tensors(name: str, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raises :class:`RankError` for tensors that are not (B, H, N, D)."""
    named = {"query": query, "key": key, "value": value}
    if wrong := [f"{n} has {x.dim()}" for n, x in named.items() if x.dim() != 4]:
        raise RankError(f"{name} takes tensors of 4 dimensions, (B, H, N, D); {', '.join(wrong)}")


def check_heads(query: Tensor, key: Tensor) -> None:
    """Raises :class:`ShapeError` where query heads cannot share key heads evenly."""
    heads, groups = query.shape[1], key.shape[1]
    if heads != groups and (not groups or heads % groups):
        raise ShapeError(f"the {heads} heads of query are no multiple of the {groups} of key")


def _check(pattern: Any, score: Any, bias: Any, offset: Any) -> None:
    if pattern is not None and not callable(pattern) and not isinstance(pattern, Sources):
        raise ArgumentError(
            f"pattern must be one of attnc.patterns or a function of (b, h, i, j), not {type(pattern).__name__}"
        )
    if isinstance(pattern, Sources) and (score is not None or bias is not None):
        raise ArgumentError("score and bias say nothing about pooled keys: write the function out for attnc.compile")
    if offset != "end" and (not isinstance(offset, int) or isinstance(offset, bool)):
        raise ArgumentError(f"offset must be an integer or 'end', not {offset!r}")
