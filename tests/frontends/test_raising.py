"""Raising keeps the numbers of every spelling, and fuses it."""

from __future__ import annotations

import pytest
import torch

from attnc.frontends.bind import Binder
from attnc.frontends.capture import Finder
from attnc.frontends.raising import Raised, raise_graph
from attnc.frontends.trace import trace
from attnc.ir.attn import AttendOp
from attnc.ir.interpret import interpret

from .raising_spellings import CASES


def raised(fn, args) -> Raised:
    return raise_graph(trace(fn, Binder(fn), tuple(args), Finder(fn, {})))


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    fn, args = CASES[name]
    result = raised(fn, args)
    (out,) = interpret(result.module, list(args))
    torch.testing.assert_close(out, torch.nan_to_num(fn(*args), 0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_fused(name: str) -> None:
    fn, args = CASES[name]
    result = raised(fn, args)
    assert any(isinstance(op, AttendOp) for op in result.module.walk())
    assert not [n for n in result.notes if n.quadratic]


@pytest.mark.parametrize("name", ["registers", "joint_values"])
def test_concatenated_keys_are_read_where_they_are(name: str) -> None:
    """Nothing is copied: each tensor that is concatenated is a source of keys."""
    result = raised(*CASES[name])
    (attend,) = (op for op in result.module.walk() if isinstance(op, AttendOp))
    assert len(attend.source_list) == 2
    assert "torch.cat" not in str(result.module)
