"""The same attention in the functions that people use today: what ``attnc bench`` compares with.

A function that is one softmax attention over plain query, key and value tensors has an equal call of
``scaled_dot_product_attention`` (mask and bias as a tensor) and of FlexAttention (mask and bias as functions).
Both are made from the captured IR, so they compute what the user wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from ..ir import attn
from ..ir.derivative import derivative
from ..ir.errors import AttncError
from ..ir.expr import TRUE, Const, Expr, Load, Op, Var, evaluate, free_vars, ge, le, map_text, substitute
from ..ir.interpret import bind_sizes
from ..ir.tensors import along, tensor_value

Tensor = torch.Tensor
Rival = Callable[[Tensor, Tensor, Tensor], Tensor]
DOT = Var("dot", "float")
MOST_MASK_BYTES = 4 << 30


class NoRivalError(AttncError):
    """A function that no call of the other library is equal to."""


@dataclass(frozen=True)
class Single:
    """A function that is one attention: ``softmax(scale * q k + bias, where mask) v``."""

    dims: tuple[str, str, str, str]  # batch, head, query row, key
    tensors: tuple[Tensor, Tensor, Tensor]  # query, key, value
    captured: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    mask: Expr
    scale: float
    bias: Expr

    @property
    def lengths(self) -> tuple[int, int]:
        """Queries and keys."""
        return self.tensors[0].shape[-2], self.tensors[1].shape[-2]


def single(module: ModuleOp, inputs: Sequence[Tensor]) -> Single:
    """The one attention of a function.  Raises :class:`NoRivalError` with the reason if it is anything else."""
    func = attn.func_of(module)
    if len(func.args) != len(inputs):
        raise NoRivalError("the function reads tensors that are not among its arguments")
    ops = func.needed()
    if len(ops) != 2 or not isinstance(ops[0], attn.AttendOp):
        raise NoRivalError("the function is more than one attention over its arguments")
    found = ops[0]
    if len(found.source_list) != 1:
        raise NoRivalError("the keys come from several sources")
    (source,) = found.source_list
    if len(found.domain) != 3 or not _plain(found, source):
        raise NoRivalError("query, key or value is rearranged")
    scale = derivative(source.score.body, DOT)
    if not isinstance(scale, Const):
        raise NoRivalError(f"the score {source.score} is not a scaled product plus a bias")
    values: dict[SSAValue, Tensor] = dict(zip(func.args, inputs, strict=True))
    b, h, i = (d.name for d in found.domain)
    return Single(
        (b, h, i, source.key),
        (values[found.query], values[found.keys[0]], values[found.values[0]]),
        {name: values[v] for name, v in found.captured.items()},
        bind_sizes(func, inputs),
        source.mask,
        float(scale.value),
        substitute(source.score.body, {"dot": Const(0.0)}),
    )


def _plain(op: attn.AttendOp, source: attn.Source) -> bool:
    """Are the maps those of tensors (batch, head, token, feature), with groups of heads at most?"""
    b, h, i = (d.name for d in op.domain)
    head = str(source.key_map[1]) if len(source.key_map) == 4 else ""
    j = source.key
    return (
        map_text(op.query_map.data) == f"{b}, {h}, {i}, d"
        and map_text(op.out_map.data) == f"{b}, {h}, {i}, e"
        and map_text(source.key_map) == f"{b}, {head}, {j}, d"
        and map_text(source.value_map) == f"{b}, {head}, {j}, e"
        and (head == h or head.startswith(f"{h} // "))
    )


def sdpa(attention: Single) -> Rival:
    """``scaled_dot_product_attention``; a mask or bias becomes one tensor, made here and not when it runs."""
    q, k, _ = attention.tensors
    options: dict[str, Any] = {"scale": attention.scale, "enable_gqa": q.shape[1] != k.shape[1]}
    unbiased = isinstance(attention.bias, Const)
    if attention.mask == TRUE and unbiased:
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)
    i, j = (Var(n) for n in attention.dims[2:])
    if unbiased and attention.lengths[0] == attention.lengths[1] and attention.mask in (le(j, i), ge(i, j)):
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
    mask = _square(attention, attention.mask)
    if not unbiased:
        mask = torch.where(mask, _square(attention, attention.bias).to(q.dtype), -torch.inf)
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)


def _square(attention: Single, e: Expr) -> Tensor:
    """An expression at all pairs of a query and a key, over batch and heads only where it varies with them."""
    used = free_vars(e)
    full = (*attention.tensors[0].shape[:2], *attention.lengths)
    shape = [n if name in used or k > 1 else 1 for k, (name, n) in enumerate(zip(attention.dims, full, strict=True))]
    if (size := torch.Size(shape).numel()) * 4 > MOST_MASK_BYTES:
        raise NoRivalError(f"its mask would hold {size:,} elements")
    points = {name: along(torch.arange(n), k, 4) for k, (name, n) in enumerate(zip(attention.dims, shape, strict=True))}
    value = tensor_value(e, {**attention.sizes, **points}, attention.captured, torch.float32)
    return value.expand(shape).contiguous()


def flex(attention: Single) -> Rival:
    """FlexAttention under ``torch.compile``; its block mask is made here and not when it runs."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    b, h, i, j = attention.dims
    q, k, _ = attention.tensors
    space: dict[str, Any] = {"torch": torch, **attention.captured}
    mask = None
    if attention.mask != TRUE:
        mask_mod = _function(f"lambda {b}, {h}, {i}, {j}", attention.mask, attention, space)
        batch, heads = (n if d in free_vars(attention.mask) else None for d, n in zip((b, h), q.shape[:2], strict=True))
        mask = create_block_mask(mask_mod, batch, heads, *attention.lengths, device=q.device.type)
    score_mod = None
    if not isinstance(attention.bias, Const):
        body = Var("score", "float") + attention.bias
        score_mod = _function(f"lambda score, {b}, {h}, {i}, {j}", body, attention, space)
    compiled = torch.compile(flex_attention, dynamic=False)
    options: dict[str, Any] = {"block_mask": mask, "score_mod": score_mod, "scale": attention.scale,
               "enable_gqa": q.shape[1] != k.shape[1]}  # fmt: skip
    return lambda q, k, v: compiled(q, k, v, **options)


def _function(head: str, body: Expr, attention: Single, space: dict[str, Any]) -> Any:
    names = {n: Const(v) for n, v in attention.sizes.items() if n not in attention.dims}
    text = f"{head}: {torch_text(substitute(body, names))}"
    return eval(text, space)  # the text is printed from an expression: it names nothing but what is in space


_INFIX = {"+", "-", "*", "/", "//", "%", "<", "<=", ">", ">=", "==", "!=", "&", "|", "^", "<<", ">>"}
_WORDS = {"and": "({} & {})", "or": "({} | {})", "not": "(~{})", "min": "torch.where({0} < {1}, {0}, {1})",
          "max": "torch.where({0} > {1}, {0}, {1})", "pow": "({} ** {})", "float": "(1.0 * {})",
          "int": "{}.long()"}  # fmt: skip


def torch_text(e: Expr) -> str:
    """An expression as Python text over scalar tensors."""
    match e:
        case Const(value):
            return f"float('{value}')" if isinstance(value, float) and abs(value) == float("inf") else repr(value)
        case Var(name, _):
            return name
        case Load(name, index, _):
            return f"{name}[{', '.join(map(torch_text, index))}]" if index else name
        case Op(name, args) if not free_vars(e) and not any(isinstance(a, Load) for a in args):
            return repr(evaluate(e, {}))
        case Op(name, args):
            texts = [torch_text(a) for a in args]
            if name in _INFIX:
                return f"({texts[0]} {name} {texts[1]})"
            return _WORDS[name].format(*texts) if name in _WORDS else f"torch.{name}({', '.join(texts)})"
    raise TypeError(f"not an expression: {e!r}")
