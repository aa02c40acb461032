"""The ops of gradients: round trips, broken rules, and what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnc.ir.attn import FuncOp
from attnc.ir.calls import call_gradient
from attnc.ir.errors import IRSyntaxError, IRVerifyError
from attnc.ir.gradient import AttendGradientOp
from attnc.ir.interpret import interpret
from attnc.ir.text import parse_module, print_module

TEXT = (Path(__file__).parent / "gradient_ops.mlir").read_text()


def test_custom_and_generic_text_round_trip() -> None:
    module = parse_module(TEXT)
    custom, generic = print_module(module), print_module(module, generic=True)
    assert print_module(parse_module(custom)) == custom
    assert print_module(parse_module(generic)) == custom
    assert all(f'at = "model.py:{n}"' in custom for n in (3, 4, 5))


def test_rebuilt_changes_only_what_is_asked_for() -> None:
    module = parse_module(TEXT)
    op = next(o for o in module.walk() if isinstance(o, AttendGradientOp))
    new = op.rebuilt(tiles=(16, 32), wanted=["value0", "query"])
    assert [x.name_hint for x in new.gradients] != []
    assert [x.type for x in new.gradients] == [op.values[0].type, op.query.type]
    assert (new.tiles.data, new.wanted_list) == ((16, 32), ["value0", "query"])
    assert (new.out, new.rows, new.d_out, new.d_lse, new.attributes) == (
        op.out,
        op.rows,
        op.d_out,
        op.d_lse,
        op.attributes,
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('of "key0"', 'of "key1"', "has no operand key1; it has query, key0, value0"),
        ("lse d_lse %d_lse\n", "lse\n", "needs the gradient of out, of lse, or both"),
        ('"M, 8", f32>)\n  %d_x', '"M, 4", f32>)\n  %d_x', ""),  # the printed result types are the operands'
        ("given [1] (%d)", "given [0, 1] (%d)", "2 outputs, 1 gradients"),
        ("wanted [0, 1]", "wanted [0, 3]", "input 3 is wanted of 3 inputs"),
        ('over "b < B, i < b + 1" to ""', 'over "i < B" to ""', "from rank 2 to rank 0 has 1 dimensions"),
        ('to "ids.int[i]"', 'to "t.int[i] + z"', "the index uses t, z, not a dimension"),
        ("mask \"j <= i\"", 'mask "j <= z"', "the mask uses z, which nothing there defines"),
    ],
)  # fmt: skip
def test_broken_rules(old: str, new: str, message: str) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    if old.startswith("lse d_lse"):
        text = text.replace(', !attn.tensor<"B, N", f32>, !attn.tensor<"B, N", f32>) -> (!attn.tensor<"M, 8"',
                            ', !attn.tensor<"B, N", f32>) -> (!attn.tensor<"M, 8"')  # fmt: skip
    if not message:
        parse_module(text)
        return
    with pytest.raises((IRSyntaxError, IRVerifyError)) as caught:
        parse_module(text)
    assert message in str(caught.value)


def test_calls_that_bind_a_size_are_needed() -> None:
    text = """
    attn.func @f(%x: !attn.tensor<"N, 4", f32>) {
      %a = attn.call "torch.nonzero(x0)"(%x) : (!attn.tensor<"N, 4", f32>) -> !attn.tensor<"L, 2", i64>
      %b = attn.call "torch.nonzero(x0)"(%x) : (!attn.tensor<"N, 4", f32>) -> !attn.tensor<"L, 2", i64>
      %c = attn.call "torch.zeros((L,), device=device)"() : () -> !attn.tensor<"L", f32>
      attn.return %c : !attn.tensor<"L", f32>
    }"""
    func = next(o for o in parse_module(text).walk() if isinstance(o, FuncOp))
    assert [op.results[0].name_hint for op in func.needed() if op.results] == ["a", "c"]


SCATTER = """
attn.func @f(%x: !attn.tensor<"B, N, M", f64>, %ids: !attn.tensor<"N", i64>) {
  %y = attn.scatter %x over "b < B, i < min(b + 2, N), j < i + 1" to "INDEX" capture ids = %ids : (!attn.tensor<"B, N, M", f64>, !attn.tensor<"N", i64>) -> (!attn.tensor<"OUT", f64>)
  attn.return %y : !attn.tensor<"OUT", f64>
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("index", "out"),
    [("", ""), ("b", "B"), ("ids.int[i]", "N"), ("i - j, b", "N, B"), ("b, j", "B, M"), ("j, 0, j", "M, 1, M")],
)
def test_scatter(index: str, out: str) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([2, 0, 2, 1])
    (y,) = interpret(parse_module(SCATTER.replace("INDEX", index).replace("OUT", out)), [x, ids])
    sizes = {"B": 3, "N": 4, "M": 5, "1": 1}
    expected = torch.zeros([sizes[s] for s in out.split(", ") if s], dtype=torch.float64)
    for b in range(3):
        for i in range(min(b + 2, 4)):
            for j in range(i + 1):
                at = eval(f"({index + ',' if index else ''})".replace(".int", ""), {"b": b, "i": i, "j": j, "ids": ids})
                expected[at] += x[b, i, j]
    torch.testing.assert_close(y, expected, rtol=1e-14, atol=1e-14)


def test_the_gradient_of_a_call_without_one_is_zero() -> None:
    x, g = torch.ones(3), torch.ones(2, 3)
    (found,) = call_gradient("torch.zeros(2, 3) + torch.floor(x0.detach())", [x], [0], [g], [0], {}, x.device)
    assert torch.equal(found, torch.zeros(3))
    # two outputs, of which one is given; an integer input beside
    ids = torch.tensor([0, 2])
    gradient = [torch.ones(2)]
    (found,) = call_gradient("torch.sort(x0[x1] * 3.0)[0], x0", [x, ids], [0], gradient, [0], {}, x.device)
    assert found.tolist() == [3.0, 0.0, 3.0]
