"""Round trips of every op, and the message of every broken rule."""

from pathlib import Path

import pytest

from attnc.ir.errors import IRSyntaxError, IRVerifyError
from attnc.ir.text import parse_module, print_module

HERE = Path(__file__).parent
INVALID = (HERE / "invalid.mlir").read_text().split("// -----\n")


@pytest.mark.parametrize("name", ["attn_ops.mlir", "tile_ops.mlir"])
def test_custom_and_generic_text_round_trip(name):
    module = parse_module((HERE / name).read_text(), name)
    custom, generic = print_module(module), print_module(module, generic=True)
    assert print_module(parse_module(custom)) == custom
    assert print_module(parse_module(generic)) == custom
    assert print_module(parse_module(custom), generic=True) == generic


def test_round_trip_keeps_the_users_line():
    module = parse_module((HERE / "attn_ops.mlir").read_text())
    assert 'at = "model.py:3"' in print_module(module)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.splitlines()[0].removeprefix("// expect: ")[:60])
def test_invalid_ir_is_refused_with_its_reason(case):
    expected, _, text = case.partition("\n")
    assert expected.startswith("// expect: ")
    with pytest.raises((IRSyntaxError, IRVerifyError)) as caught:
        parse_module(text, "case.mlir")
    assert expected.removeprefix("// expect: ") in str(caught.value)


def test_deep_nesting_is_an_error_not_a_crash():
    text = "builtin.module {" * 3000 + "}" * 3000
    with pytest.raises(IRSyntaxError, match="nested too deeply"):
        parse_module(text)


def test_a_string_without_an_end_is_found_at_once():
    """A pattern that tries all ways to divide it would take years."""
    text = 'tile.kernel @k(%q: !tile.mem<1, f32>) outputs 1 // "a comment\n  grid "t < N" rows "i, t * 4, 4, N, and on'
    with pytest.raises(IRSyntaxError, match=r"<input>:2:21: a string without an end"):
        parse_module(text)


def test_argument_names_survive_where_ssa_names_differ():
    text = """
    tile.kernel @k(%q: !tile.mem<1, f32>, %b: !tile.mem<1, f32>) names ["q", "bias_2"] outputs 1
      grid "t < N" rows "i, t * 4, 4, N" {
      %Q = tile.load %q at <"i"> : !tile.mem<1, f32> -> !tile.tile<"i:4", f32>
      %M = tile.mask %Q where <"bias_2[i] > 0.0"> : !tile.tile<"i:4", f32> -> !tile.tile<"i:4", f32>
    }"""
    printed = print_module(parse_module(text))
    assert 'names ["q", "bias_2"]' in printed
    assert print_module(parse_module(printed)) == printed
