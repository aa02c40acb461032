"""The text of ``attn.call``, made executable.

The language is Python's, restricted: names ``x0, x1, ...`` (operands), size symbols, ``device`` and
``torch``; literals, tuples, lists, slices, arithmetic, subscripts, and calls of attributes of ``torch`` and
of operands.  Nothing else is evaluated, so text from a file can run no other code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .errors import IRSyntaxError

_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Tuple, ast.List, ast.Slice, ast.Subscript, ast.Attribute,
    ast.Call, ast.keyword, ast.Starred, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Compare, ast.cmpop,
    ast.BoolOp, ast.boolop, ast.IfExp,
)  # fmt: skip


# Modules of PyTorch whose functions a call may name; ``torch.os``, ``torch.hub`` and the like stay out.
_MODULES = ("torch", "torch.nn.functional", "torch.special", "torch.linalg", "torch.fft", "torch.ops.aten")
_RANDOM = frozenset(
    {"bernoulli", "cauchy", "exponential", "geometric", "gumbel_softmax", "log_normal", "multinomial", "normal",
     "poisson", "rrelu", "uniform"}
)  # fmt: skip
_RANDOM_PREFIXES = (
    "rand", "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "native_dropout",
    "fractional_max_pool",
)  # fmt: skip
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "linear", "conv1d", "conv2d", "conv3d"})
_PERHAPS_RANDOM = re.compile("|".join([*sorted(_RANDOM), *_RANDOM_PREFIXES, "dropout_p"]))
_FORBIDDEN = frozenset(
    {"load", "save", "compile", "from_file", "numpy", "tofile", "apply_", "map_", "map2_", "register_hook"}
)


def parse_call(text: str) -> ast.Expression:
    """Read a call.  Raises :class:`IRSyntaxError` for text outside the language."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise IRSyntaxError(f"cannot read the call {text!r}: {error.msg}") from None
    for node in ast.walk(tree):
        free_call = isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute)
        free_call |= isinstance(node, ast.Name) and node.id.startswith("_")
        if not isinstance(node, _NODES) or free_call or (isinstance(node, ast.Attribute) and not _harmless(node)):
            raise IRSyntaxError(f"the call {text!r} may not contain {ast.unparse(node)!r}")
    return tree


def _harmless(node: ast.Attribute) -> bool:
    if node.attr.startswith("_") or node.attr in _FORBIDDEN:
        return False
    base: ast.expr = node
    while isinstance(base, ast.Attribute):
        base = base.value
    if not (isinstance(base, ast.Name) and base.id == "torch"):
        return True  # a method or attribute of a value
    path, parent = ast.unparse(node), ast.unparse(node.value)
    return parent in _MODULES or parent.startswith("torch.ops.aten.") or any(m.startswith(path) for m in _MODULES)


def is_product(text: str) -> bool:
    """Is the call a product of matrices, or a convolution, which takes longer to make again than to read?"""
    body = parse_call(text).body
    return isinstance(body, ast.Call) and isinstance(body.func, ast.Attribute) and body.func.attr in _PRODUCTS


def draws_random(text: str) -> bool:
    """Does the call give other numbers each time?"""
    if not _PERHAPS_RANDOM.search(text):
        return False  # most calls, at a hundredth of the time
    for node in ast.walk(parse_call(text)):
        if isinstance(node, ast.Attribute):
            name = node.attr.rstrip("_")
            if name in _RANDOM or name.startswith(_RANDOM_PREFIXES):
                return True
        if isinstance(node, ast.keyword) and node.arg == "dropout_p":  # of scaled_dot_product_attention
            if not (isinstance(node.value, ast.Constant) and node.value.value == 0):
                return True
    return False


@lru_cache(maxsize=4096)
def compile_call(text: str) -> Callable[[dict[str, Any]], Any]:
    """A function of the environment ``{"x0": tensor, ..., "N": 64, "device": device}``.

    Raises :class:`IRSyntaxError` for text outside the language.
    """
    code = compile(parse_call(text), "<attn.call>", "eval")

    def run(env: dict[str, Any]) -> Any:
        import torch

        # PyTorch imports parts of itself when it first makes a tensor; the text itself cannot name __import__
        builtins = {"__import__": __import__}
        return eval(code, {"__builtins__": builtins, "torch": torch, "inf": float("inf"), "nan": float("nan")}, env)

    return run


def call(text: str, inputs: Sequence[Any], sizes: Mapping[str, Any], device: Any) -> list[Any]:
    """The results of a call on the operands ``x0, x1, ...``."""
    env = {f"x{n}": x for n, x in enumerate(inputs)} | {**sizes, "device": device}
    outs = compile_call(text)(env)
    return list(outs) if isinstance(outs, tuple | list) else [outs]


def call_gradient(
    text: str,
    inputs: Sequence[Any],
    given: Sequence[int],
    gradients: Sequence[Any],
    wanted: Sequence[int],
    sizes: Mapping[str, Any],
    device: Any,
) -> list[Any]:
    """The gradients of the ``wanted`` inputs of a call, from those of its ``given`` outputs; by PyTorch."""
    import torch

    with torch.enable_grad():
        copies = [x.detach().requires_grad_(n in wanted) for n, x in enumerate(inputs)]
        outs = call(text, copies, sizes, device)
    pairs = [(outs[n], g) for n, g in zip(given, gradients, strict=True) if outs[n].requires_grad]
    return vector_jacobian(pairs, [copies[n] for n in wanted])


def vector_jacobian(pairs: Sequence[tuple[Any, Any]], leaves: Sequence[Any]) -> list[Any]:
    """The gradients of ``leaves`` from pairs of a result and its gradient; zeros where none depends on them."""
    import torch

    if not pairs:
        return [torch.zeros_like(x) for x in leaves]
    results, gradients = zip(*pairs, strict=True)
    return list(torch.autograd.grad(results, leaves, gradients, allow_unused=True, materialize_grads=True))
