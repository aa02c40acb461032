"""The interpreter's attention: scores around a large fill, rows without a live key, calls in a new process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from attnc.ir.calls import compile_call
from attnc.ir.errors import IRSyntaxError
from attnc.ir.interpret import interpret
from attnc.ir.interpret_tile import TasksMeetError, run_kernel
from attnc.ir.text import parse_module
from attnc.ir.tile import kernels_of

FUNC = """
attn.func @f(%q: !attn.tensor<"N, 4", f64>, %k: !attn.tensor<"N_k, 4", f64>, %v: !attn.tensor<"N_k, 4", f64>) guards [] {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 4
    source "j < N_k" key %k "j, d" value %v "j, e" mask "MASK" score "lambda dot: SCORE"
    normaliser softmax
    out "i, e" width 4 lse "i" attributes {at = "a.py:1"}
    : (!attn.tensor<"N, 4", f64>, !attn.tensor<"N_k, 4", f64>, !attn.tensor<"N_k, 4", f64>) -> (!attn.tensor<"N, 4", f64>, !attn.tensor<"N", f64>)
  attn.return %o, %lse : !attn.tensor<"N, 4", f64>, !attn.tensor<"N", f64>
}
"""  # noqa: E501


def attend(mask: str, score: str, keys: int = 7) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in (5, keys, keys)]
    return inputs, interpret(parse_module(FUNC.replace("MASK", mask).replace("SCORE", score)), inputs)


def test_rows_at_a_fill_keep_their_digits() -> None:
    (q, k, v), (out, lse) = attend("True", "where(j > i - 3, -1e9, dot)")
    i, j = torch.arange(5)[:, None], torch.arange(7)
    scores = (q @ k.T).masked_fill(j > i - 3, -1e9)
    torch.testing.assert_close(out, scores.softmax(-1) @ v, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(lse, scores.logsumexp(-1))


def test_rows_without_a_live_key_are_zero() -> None:
    (q, k, v), (out, lse) = attend("j < i - 1", "dot")
    assert torch.equal(out[:2], torch.zeros(2, 4, dtype=torch.float64))
    assert torch.equal(lse[:2], torch.full((2,), -torch.inf, dtype=torch.float64))
    torch.testing.assert_close(out[4], (k[:3] @ q[4]).softmax(-1) @ v[:3])
    _, (out, lse) = attend("True", "dot", keys=0)
    assert not out.any()
    assert (lse == -torch.inf).all()


def test_first_call_of_a_process() -> None:
    program = "import torch; from attnc.ir.calls import compile_call as c; c('torch.full((), 0.0, device=device)')"
    subprocess.run([sys.executable, "-c", program + "({'device': torch.device('cpu')})"], check=True)


def test_calls_name_nothing_private() -> None:
    with pytest.raises(IRSyntaxError, match="__import__"):
        compile_call("torch.add(x0, __import__)")


def test_tasks_that_write_the_same_element_are_refused() -> None:
    text = """
    tile.kernel @k(%x: !tile.mem<2, f64>, %y: !tile.mem<1, f64>, %z: !tile.mem<0, f64>) outputs 2
      grid "b < B, t < 2"SEQUENTIAL rows "i, t * 2, 2, 4" {
      %t = tile.load %x at <"b, i"> : !tile.mem<2, f64> -> !tile.tile<"i:2", f64>
      tile.store %t, %y at <"i"> add : !tile.tile<"i:2", f64> -> !tile.mem<1, f64>
      tile.store %t, %z at <""> add : !tile.tile<"i:2", f64> -> !tile.mem<0, f64>
    }"""
    x, y, z = (torch.arange(float(n), dtype=torch.float64) for n in (12, 4, 1))
    x, z = x.reshape(3, 4), z.reshape(())
    (kernel,) = kernels_of(parse_module(text.replace("SEQUENTIAL", " sequential 2"))).values()
    run_kernel(kernel, [x, y, z], {"B": 3})
    assert torch.equal(y, x.sum(0))
    assert z == x.sum()
    (kernel,) = kernels_of(parse_module(text.replace("SEQUENTIAL", " sequential 1"))).values()
    with pytest.raises(TasksMeetError, match="two tasks of a kernel write the same element"):
        run_kernel(kernel, [x, y, z], {"B": 3})
