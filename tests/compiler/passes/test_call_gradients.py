"""Gradients of calls, with and without autograd, against autograd."""

from __future__ import annotations

import pytest
import torch

from attnc.compiler.passes.differentiate import Differentiate
from attnc.ir.calls import compile_call
from attnc.ir.interpret import interpret
from attnc.ir.text import parse_module

SIZES = {"B": 2, "H": 3, "N": 5, "D": 4}
BHND = "B, H, N, D"


def module(call: str, shapes: list[str], out: str):
    types = [f'!attn.tensor<"{s}", f64>' for s in (*shapes, out, BHND)]
    args = ", ".join(f"%a{n}: {t}" for n, t in enumerate(types[:-2]))
    names = ", ".join(f"%a{n}" for n in range(len(shapes)))
    return parse_module(
        f"""attn.func @f({args}, %like: {types[-1]}) {{
          %y = attn.call "{call}"({names}) {{at = "model.py:1"}} : ({", ".join(types[:-2])}) -> {types[-2]}
          attn.return %y : {types[-2]}
        }}"""
    )


# call, shapes of its inputs and output, which gradients are left to autograd
CALLS: list[tuple[str, list[str], str, list[int]]] = [
    ("(x0 + x1)", [BHND, BHND], BHND, []),
    ("(x0 + x1)", [BHND, "D"], BHND, []),
    ("(x0 - x1)", ["N, D", BHND], BHND, []),
    ("(x0 * x1)", [BHND, "H, N, D"], BHND, []),
    ("(x0 / x1)", [BHND, BHND], BHND, [1]),
    ("(x0 * x1)", [BHND, "B, 1, N, 1"], BHND, [1]),
    ("(x1 - x0)", [BHND, BHND], BHND, [0, 1]),
    ("(x0 * 0.5)", [BHND], BHND, []),
    ("(x0 / -2)", [BHND], BHND, []),
    ("(x0 - 1)", [BHND], BHND, []),
    ("(x0 ** 2)", [BHND], BHND, [0]),
    ("(x0 + x0)", [BHND], BHND, [0]),
    ("torch.permute(x0, (0, 3, 1, 2))", [BHND], "B, D, H, N", []),
    ("torch.reshape(x0, (B, H * N, D))", [BHND], "B, H * N, D", []),
    ("torch.unsqueeze(x0, 1)", ["B, H * N, D"], "B, 1, H * N, D", []),
    ("torch.squeeze(x0, 1)", ["B, 1, N"], "B, N", []),
    ("torch.reshape(x0, (-1,))", ["min(B, H)"], "min(B, H)", [0]),
    ("torch.matmul(x0, x1)", [BHND, "D, 7"], "B, H, N, 7", []),
    ("torch.matmul(x0, x1)", ["N, D", "D, 7"], "N, 7", []),
    ("torch.matmul(x0, x1)", [BHND, "B, H, D, N"], "B, H, N, N", []),
    ("torch.matmul(x0, x1)", [BHND, "H, D, N"], "B, H, N, N", [0, 1]),
    ("torch.matmul(x0, x1)", ["N, D", BHND.replace("N, D", "D, N")], "B, H, N, N", [0, 1]),
    ("torch.matmul(x0, x1)", [BHND, "D"], "B, H, N", [0, 1]),
    ("torch.matmul(x1, x0)", ["N, N", "N, N"], "N, N", [0, 1]),
    ("torch.matmul(x0, x0)", ["N, N"], "N, N", [0]),
    ("torch.nn.functional.linear(x0, x1)", [BHND, "7, D"], "B, H, N, 7", []),
    ("torch.nn.functional.linear(x0, x1, x2)", ["N, D", "7, D", "7"], "N, 7", []),
    ("torch.nn.functional.linear(x0, x1)", ["D", "7, D"], "7", [0, 1]),
    ("torch.einsum('bhnd,nr->bhrd', x0, x1)", [BHND, "N, 7"], "B, H, 7, D", [1]),
    ("torch.einsum('gh,bhnd->bgnd', x0, x1)", ["7, H", BHND], "B, 7, N, D", [0]),
    ("torch.einsum('bhnd,bhmd->bhnm', x0, x1)", [BHND, BHND], "B, H, N, N", []),
    ("torch.einsum('nd,dm->m', x0, x1)", ["N, D", "D, 7"], "7", [0, 1]),
    ("torch.einsum('nn,nd->nd', x0, x1)", ["N, N", "N, D"], "N, D", [0, 1]),
    ("torch.einsum('...d,de->...e', x0, x1)", [BHND, "D, 7"], "B, H, N, 7", [0, 1]),
    ("torch.nn.functional.pad(x0, (0, 0, 0, -N % 4), value=0)", [BHND], "B, H, N + 3, D", []),
    ("torch.nn.functional.pad(x0, (1, 2, 0, 3), value=0.5)", [BHND], "B, H, N + 3, D + 3", []),
    ("torch.nn.functional.pad(x0, (0, 0, -1, 3), value=0)", [BHND], "B, H, N + 2, D", [0]),
    ("torch.softmax(x0, 3)", [BHND], BHND, [0]),
    ("torch.mean(x0, (1,), keepdim=False)", [BHND], "B, N, D", [0]),
]


@pytest.mark.parametrize(("call", "shapes", "out", "left"), CALLS)
def test_gradients(call: str, shapes: list[str], out: str, left: list[int]) -> None:
    names = [f"a{n}" for n in range(len(shapes))]
    gradient = module(call, shapes, out)
    Differentiate(wanted=tuple(names)).apply(None, gradient)  # type: ignore[arg-type]
    by_autograd = [op.wanted_list for op in gradient.walk() if op.name == "attn.call_gradient"]
    assert by_autograd == ([left] if left else [])
    generator = torch.Generator().manual_seed(0)

    def random(shape: str) -> torch.Tensor:
        sizes = eval(f"({shape},)", dict(SIZES))
        return torch.randn(sizes, dtype=torch.float64, generator=generator, requires_grad=True)

    inputs, like, seed = [random(s) for s in shapes], random(BHND), random(out)
    expected_of = compile_call(call)({f"x{n}": x for n, x in enumerate(inputs)} | SIZES)
    expected = torch.autograd.grad(expected_of, inputs, seed)
    with torch.no_grad():
        found = interpret(gradient, [*inputs, like, seed])
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)


def test_constants_have_no_gradient() -> None:
    for call in ("torch.rand_like(x0)", "x0.detach()"):
        gradient = module(call, [BHND], BHND)
        Differentiate(wanted=("a0",)).apply(None, gradient)  # type: ignore[arg-type]
        assert [op.call.data for op in gradient.walk() if op.name == "attn.call"] == ["torch.zeros_like(x0)"]
