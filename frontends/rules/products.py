"""Matrix products and attention."""

from __future__ import annotations

import math
import string
from typing import TYPE_CHECKING, Any

import torch

from ...ir.expr import Expr, op
from .. import shapes
from ..sizes import hint_of
from ..traced import Traced
from .registry import rule

if TYPE_CHECKING:
    from ..tracer import Tracer


@rule("matmul", probe=True)
def matmul(
    t: Tracer, input: Traced, mat2: Any = None, other: Any = None, vec: Any = None, tensor: Any = None
) -> Traced:
    right = next(x for x in (mat2, other, vec, tensor) if x is not None)
    shape = shapes.matmul(t.graph, input.node.shape, right.node.shape)
    return t.emit("matmul", {"input": input, "other": right}, shape, "torch.matmul({input}, {other})")


@rule("rmatmul", probe=True)
def rmatmul(t: Tracer, input: Traced, other: Traced) -> Traced:
    return t(torch.matmul, other, input)


@rule("addmm", "baddbmm", "addmv", probe=True)
def addmm(t: Tracer, input: Traced, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Traced:
    product = t(torch.matmul, batch1, batch2)
    if hint_of(alpha) != 1:
        product = t(torch.mul, product, alpha)
    if isinstance(beta, int | float) and beta == 0:  # input is ignored then, even its nans
        return product
    return t(torch.add, input if hint_of(beta) == 1 else t(torch.mul, input, beta), product)


@rule("linear", probe=True)
def linear(t: Tracer, input: Traced, weight: Traced, bias: Any = None) -> Traced:
    t.graph.unify(input.node.shape[-1], weight.node.shape[-1])
    shape = (*input.node.shape[:-1], *weight.node.shape[:-1])
    if bias is not None:
        shape = shapes.broadcast(t.graph, shape, bias.node.shape)
    args = {"input": input, "weight": weight, "bias": bias}
    call = "torch.nn.functional.linear({input}, {weight}" + (")" if bias is None else ", {bias})")
    return t.emit("linear", args, shape, call)


@rule("outer", probe=True)
def outer(t: Tracer, input: Traced, vec2: Traced) -> Traced:
    return t(torch.mul, input[:, None], vec2[None, :])


@rule("kron")
def kron(t: Tracer, input: Traced, other: Traced) -> Traced:
    rank = max(input.dim(), other.dim())
    a, b = (x[(None,) * (rank - x.dim()) + (...,)] if x.dim() < rank else x for x in (input, other))
    sizes = [t.number(m * n) for m, n in zip(a.node.shape, b.node.shape, strict=True)]
    for d in range(rank):
        a, b = t(torch.unsqueeze, a, 2 * d + 1), t(torch.unsqueeze, b, 2 * d)
    return t(torch.mul, a, b).reshape(sizes)


@rule("scaled_dot_product_attention", probe=True)
def sdpa(
    t: Tracer, query: Traced, key: Traced, value: Traced, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: Any = None, enable_gqa: bool = False,
) -> Traced:  # fmt: skip
    graph, (q, k, v) = t.graph, (x.node.shape for x in (query, key, value))
    graph.unify(q[-1], k[-1])
    graph.unify(k[-2], v[-2])
    if enable_gqa and len(q) > 2:
        graph.unify(k[-3], v[-3])
        batch = (*shapes.broadcast(graph, q[:-3], k[:-3], v[:-3]), q[-3])
        if graph.assume(op(">=", k[-3], 1)):
            graph.assume(op("==", q[-3] % k[-3], 0))  # eager insists
    else:
        batch = shapes.broadcast(graph, q[:-2], k[:-2], v[:-2])
    args = {
        "query": query, "key": key, "value": value, "attn_mask": attn_mask, "dropout_p": dropout_p,
        "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa,
    }  # fmt: skip
    call = (
        "torch.nn.functional.scaled_dot_product_attention({query}, {key}, {value}, attn_mask={attn_mask}, "
        "dropout_p={dropout_p}, is_causal={is_causal}, scale={scale}, enable_gqa={enable_gqa})"
    )
    if attn_mask is not None:
        shapes.broadcast(graph, (*batch, q[-2], k[-2]), attn_mask.node.shape)
    return t.emit("scaled_dot_product_attention", args, (*batch, q[-2], graph.canon(v[-1])), call)


@rule("tensordot")
def tensordot(t: Tracer, a: Traced, b: Traced, dims: Any = 2, out: None = None) -> Traced:
    if isinstance(dims, int):
        dims = range(a.dim() - dims, a.dim()), range(dims)
    summed = [[shapes.dim(x.dim(), d) for d in at] for x, at in zip((a, b), dims, strict=True)]
    letters = iter(string.ascii_letters)
    left, right = [next(letters) for _ in range(a.dim())], [next(letters) for _ in range(b.dim())]
    for m, n in zip(*summed, strict=True):
        right[n] = left[m]
    kept = [c for c in (*left, *right) if not (c in left and c in right)]
    return t(torch.einsum, f"{''.join(left)},{''.join(right)}->{''.join(kept)}", a, b)


@rule("cdist")
def cdist(t: Tracer, x1: Traced, x2: Traced, p: float = 2.0, compute_mode: str | None = None) -> Traced:
    (*a, rows, _), (*b, columns, _) = x1.node.shape, x2.node.shape
    args = {"input": x1, "other": x2, "p": p, "compute_mode": compute_mode}
    call = "torch.cdist({input}, {other}, p={p}, compute_mode={compute_mode})"
    return t.emit("cdist", args, (*shapes.broadcast(t.graph, a, b), rows, columns), call)


@rule("einsum", probe=True)
def einsum(t: Tracer, equation: str, *operands: Any) -> Traced:
    tensors = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    terms, result = explicit_terms(equation, [x.dim() for x in tensors])
    if len(tensors) > 2:
        probed = t.result
        terms, tensors = _two(t, terms, list(tensors), result)
        t.result = probed
    if len(tensors) == 2 and set(result) == set("".join(terms)) and all(len(set(s)) == len(s) for s in terms):
        return t(torch.mul, *(_aligned(t, x, s, result) for x, s in zip(tensors, terms, strict=True)))  # no sum
    sizes: dict[str, Expr] = {}
    for term, x in zip(terms, tensors, strict=True):
        for letter, size in zip(term, x.node.shape, strict=True):
            sizes[letter] = shapes.broadcast_size(t.graph, sizes[letter], size) if letter in sizes else size
    text = ",".join(terms) + "->" + result
    call = "torch.einsum({equation}, " + ", ".join(f"{{x{n}}}" for n in range(len(tensors))) + ")"
    args = {"equation": text, "operands": tensors}
    holes = args | {f"x{n}": x for n, x in enumerate(tensors)}
    traced = t.emit("einsum", holes, [sizes[letter] for letter in result], call)
    traced.node.args = {k: traced.node.args[k] for k in args}
    return traced


def _two(t: Tracer, terms: list[str], tensors: list[Any], result: str) -> tuple[list[str], list[Any]]:
    """Two operands of many: those whose product is smallest are multiplied first."""
    sizes: dict[str, int] = {}
    for term, x in zip(terms, tensors, strict=True):
        sizes |= {c: int(t.graph.hint(e)) for c, e in zip(term, x.node.shape, strict=True)}
    while len(tensors) > 2:
        pairs = {
            (m, n): _kept(terms[m] + terms[n], [result, *(s for k, s in enumerate(terms) if k not in (m, n))])
            for n in range(len(tensors))
            for m in range(n)
        }
        # of two that are equally small the one that sums
        m, n = min(pairs, key=lambda p: (math.prod(sizes[c] for c in pairs[p]), len(pairs[p])))
        made = t(torch.einsum, f"{terms[m]},{terms[n]}->{pairs[m, n]}", tensors[m], tensors[n])
        letters = pairs[m, n]
        terms = [*(s for k, s in enumerate(terms) if k not in (m, n)), letters]
        tensors = [*(x for k, x in enumerate(tensors) if k not in (m, n)), made]
    return terms, tensors


def _kept(letters: str, elsewhere: list[str]) -> str:
    return "".join(c for c in dict.fromkeys(letters) if any(c in s for s in elsewhere))


def _aligned(t: Tracer, x: Traced, letters: str, all: str) -> Traced:
    """``x`` with a dimension for each of ``all`` letters, of size 1 where it has none."""
    x = t(torch.permute, x, [letters.index(c) for c in all if c in letters])
    return x[tuple(slice(None) if c in letters else None for c in all)]


def explicit_terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with ``...`` and an absent ``->`` written out."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [c for c in string.ascii_uppercase + string.ascii_lowercase if c not in equation]
    widest = max(
        [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term],
        default=0,
    )
    dots = "".join(spare[:widest])
    for n, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        count = rank - len(term.replace("...", ""))
        terms[n] = term.replace("...", dots[len(dots) - count :] if count else "")
    if arrow:
        return terms, right.replace("...", dots)
    letters = "".join(terms)
    return terms, dots + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
