"""``differentiate``: its gradients against PyTorch's through the interpreted forward function, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

import attnc
from attnc.compiler.errors import PassVerifyError
from attnc.compiler.pass_manager import PassManager, parse_passes, pipeline_text
from attnc.compiler.passes.differentiate import Differentiate, DifferentiationError
from attnc.compiler.verify_each import VerifyMeaning, in_float64
from attnc.compiler.verify_gradient import by_autograd
from attnc.ir import attn
from attnc.ir.expr import evaluate
from attnc.ir.interpret import bind_sizes, interpret
from attnc.ir.text import parse_module, print_module, verify
from tests.patterns import PATTERNS, Pattern, positions

Tensor = torch.Tensor
DOMAIN = "simplify-masks,fold-reorders,block-diagonal{always=true},dilation{always=true}"
# (batch, heads, queries, keys, head width, value width)
SIZES = [(2, 2, 13, 13, 4, 4), (1, 2, 24, 24, 4, 4), (1, 2, 1, 1, 4, 4), (1, 4, 5, 11, 4, 4), (1, 2, 17, 3, 4, 4),
         (1, 2, 3, 0, 4, 4), (1, 2, 0, 3, 4, 4)]  # fmt: skip


def raised(fn: Callable[..., Any], inputs: tuple[Any, ...], passes: str = ""):
    module = in_float64(parse_module(attnc.compile(fn).lower(*inputs).ir("attn")))
    return PassManager(parse_passes(passes)).run(module)


def check(forward, inputs: list[Tensor], options: Differentiate = Differentiate()) -> Any:
    """Differentiate and compare; returns the gradient module."""
    module = forward.clone()
    options.apply(None, module)  # type: ignore[arg-type]
    verify(module)
    parse_module(print_module(module))
    at, expected = by_autograd(forward, options, inputs)
    for n, (x, y) in enumerate(zip(interpret(module, at), expected, strict=True)):
        shapes = [tuple(x.shape) for x in inputs]
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12, msg=lambda t, n=n, s=shapes: f"{n} at {s}: {t}")
        assert y.isfinite().all()
    return module


def ops(module: Any, kind: str) -> list[Any]:
    return [op for op in module.walk() if op.name == f"attn.{kind}"]


@cache
def module_of(pattern: Pattern, passes: str) -> Any:
    inputs = pattern.inputs(1, 2, 24, 24, 4, dtype=torch.float64)
    assert inputs is not None
    return raised(pattern.fn, inputs, passes)


@pytest.mark.parametrize("passes", ["", DOMAIN], ids=["raised", "domain"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_patterns(pattern: Pattern, passes: str) -> None:
    forward = module_of(pattern, passes)
    func = attn.func_of(forward)
    done = 0
    for size in SIZES:
        inputs = pattern.inputs(*size, dtype=torch.float64)
        # captured tensors that are not arguments come after them, and make no other length possible
        if inputs is None or len(inputs) != len(func.args):
            continue
        sizes = bind_sizes(func, inputs)
        if all(evaluate(g, sizes) for g in func.facts):
            check(forward, list(inputs))
            done += 1
    assert done


def lse_too(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = q @ k.mT / 2
    i, j = positions(q, k)
    scores = scores.masked_fill(j > i - 2, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def self_attention(x: Tensor, w: Tensor) -> Tensor:
    """One tensor is query, key and value; a projection in front, another and a residual behind."""
    y = x @ w
    return (y @ y.mT).softmax(-1) @ y @ w.mT + x


def stacked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A result that three things use."""
    y = (q @ k.mT).softmax(-1) @ v
    return (y @ k.mT).softmax(-1) @ y + y.roll(3, 2)


def biases(q: Tensor, k: Tensor, v: Tensor, table: Tensor, slope: Tensor, dense: Tensor, cap: Tensor) -> Tensor:
    i, j = positions(q, k)
    near = (i - j).clamp(-3, 3)
    scores = cap * torch.tanh(q @ k.mT / cap) * slope[:, None, None] + dense
    return (scores + table[:, near + 3] + 2 * table[:, 3 - near]).softmax(-1) @ v


def masked_by_a_tensor(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    return (q @ k.mT).masked_fill(gate[..., None, :] > 0.8, -torch.inf).softmax(-1) @ v


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


QKV = (rand(1, 2, 9, 4), rand(1, 2, 9, 4) + 0.1, rand(1, 2, 9, 4) - 0.1)
BIASES = (*QKV, rand(2, 7), rand(2), rand(2, 9, 9), torch.tensor(1.5, dtype=torch.float64))
FUNCTIONS: list[tuple[Callable[..., Any], tuple[Tensor, ...]]] = [
    (lse_too, QKV),
    (self_attention, (rand(1, 2, 9, 4), rand(4, 4))),
    (stacked, QKV),
    (biases, BIASES),
    (masked_by_a_tensor, (*QKV, rand(1, 2, 9))),
]


@pytest.mark.parametrize("passes", ["", DOMAIN], ids=["raised", "domain"])
@pytest.mark.parametrize(("fn", "inputs"), FUNCTIONS, ids=lambda x: getattr(x, "__name__", ""))
def test_functions(fn: Callable[..., Any], inputs: tuple[Tensor, ...], passes: str) -> None:
    forward = raised(fn, inputs, passes)
    names = attn.func_of(forward).names
    check(forward, list(inputs))
    for name in names:
        check(forward, list(inputs), Differentiate(wanted=(name,)))


def test_only_what_is_asked_for() -> None:
    forward = raised(biases, BIASES)
    module = check(forward, list(BIASES), Differentiate(wanted=("v",)))
    (attend,) = ops(module, "attend_gradient")
    assert attend.wanted_list == ["value0"]
    assert not ops(module, "call_gradient")
    module = check(forward, list(BIASES), Differentiate(wanted=("dense", "k")))
    (attend,) = ops(module, "attend_gradient")
    assert attend.wanted_list == ["key0", "capture:dense"]
    assert not ops(module, "attend")


def test_results_that_are_given() -> None:
    forward = raised(lse_too, QKV)
    module = check(forward, list(QKV), Differentiate(given=(1,)))
    (attend,) = ops(module, "attend_gradient")
    assert (attend.d_out, attend.wanted_list) == (None, ["query", "key0"])
    assert attn.func_of(module).names[3:] == ["out", "lse", "d_result1"]
    (zeros,) = ops(module, "call")
    assert zeros.call.data == "torch.zeros_like(x0)"
    check(forward, list(QKV), Differentiate(wanted=("v",), given=(1,)))


def test_a_mask_passes_no_gradient_on() -> None:
    forward = raised(masked_by_a_tensor, (*QKV, rand(1, 2, 9)))
    module = check(forward, [*QKV, rand(1, 2, 9)])
    assert ops(module, "attend_gradient")[0].wanted_list == ["query", "key0", "value0"]


def test_calls_are_repeated_only_where_they_are_read() -> None:
    inputs = FUNCTIONS[1][1]
    module = check(raised(self_attention, inputs), list(inputs))
    repeated = [op.call.data for op in ops(module, "call") if not op.outputs[0].name_hint.startswith("d_")]
    assert repeated == ["torch.permute(x0, (1, 0))"]
    assert not ops(module, "call_gradient")
    assert 'at = "test_differentiate.py:' in str(module)


def projected(x: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Keys are a product of a product, the value is neither."""
    y = torch.nn.functional.linear(x, w).relu() @ u
    return (x @ y.mT).softmax(-1) @ (x * 2) @ u


def test_products_that_attentions_are_made_of_are_kept() -> None:
    inputs = [rand(1, 2, 9, 4), rand(4, 4), rand(4, 4)]
    forward = raised(projected, inputs)
    kept = [op.call.data for op in ops(forward, "call") if op.is_kept]
    assert kept == ["torch.nn.functional.linear(x0, x1)", "torch.matmul(x0, x1)"]
    module = check(forward, inputs)
    assert attn.func_of(module).names[3:] == ["out", "lse", "product0", "product1", "d_result"]


def test_residuals_have_names_of_their_own() -> None:
    text = print_module(raised(lambda q, out, lse: (q @ out.mT).softmax(-1) @ lse, QKV))
    module = check(parse_module(text), list(QKV))
    assert attn.func_of(module).names == ["q", "out", "lse", "out_", "lse_", "d_result"]


BINDING = """
attn.func @f(%x: !attn.tensor<"N, 4", f64>, %keep: !attn.tensor<"N", i1>) {
  %y = attn.call "CALL"(%x, %keep) {at = "model.py:3"} : (!attn.tensor<"N, 4", f64>, !attn.tensor<"N", i1>) -> !attn.tensor<"L, 4", f64>
  %o, %lse = attn.attend over "i < L"
    query %y "i, d" width 4
    source "j < L" key %y "j, d" value %y "j, e" mask "j <= i" score "lambda dot: dot"
    normaliser softmax
    out "i, e" width 4 lse "i"
    : (!attn.tensor<"L, 4", f64>, !attn.tensor<"L, 4", f64>, !attn.tensor<"L, 4", f64>) -> (!attn.tensor<"L, 4", f64>, !attn.tensor<"L", f64>)
  %z = attn.call "x0.repeat(2, 1)"(%o) : (!attn.tensor<"L, 4", f64>) -> !attn.tensor<"L * 2, 4", f64>
  attn.return %z : !attn.tensor<"L * 2, 4", f64>
}
"""  # noqa: E501


def test_a_call_that_binds_a_size() -> None:
    inputs = [rand(9, 4), torch.arange(9) % 3 > 0]
    forward = parse_module(BINDING.replace("CALL", "x0[x1]"))
    check(forward, inputs)
    assert len(attn.func_of(forward).binding_calls()) == 1


@pytest.mark.parametrize(
    "call",
    [
        "torch.bernoulli(x0.sigmoid())",
        "torch.nn.functional.dropout(x0, 0.1, True)",
        "x0 * torch.rand_like(x0)",
        "x0.normal_()",
        "torch.nn.functional.scaled_dot_product_attention(x0, x0, x0, attn_mask=None, dropout_p=0.1)",
    ],
)
def test_random_calls_are_refused(call: str) -> None:
    with pytest.raises(DifferentiationError, match=r"a second time \(from model.py:3\), but it draws random"):
        Differentiate().apply(None, parse_module(BINDING.replace("CALL", call)))  # type: ignore[arg-type]


def test_random_numbers_that_no_gradient_reads() -> None:
    forward = raised(lambda q, k, v: (q @ k.mT).softmax(-1) @ v + torch.rand_like(q), QKV)
    module = forward.clone()
    Differentiate().apply(None, module)  # type: ignore[arg-type]
    assert "rand" not in str(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wanted": ("w",)}, "f has no argument w; it has x, keep"),
        ({"wanted": ("keep",)}, "the argument keep holds i1, which has no gradient"),
        ({"given": (1,)}, "f has no result 1; it has 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DifferentiationError, match=message):
        Differentiate(**options).apply(None, parse_module(BINDING.replace("CALL", "x0[x1]")))  # type: ignore[arg-type]


def test_options_as_text() -> None:
    for text, options in (
        ("differentiate", Differentiate()),
        ("differentiate{wanted=q given=0}", Differentiate(("q",), (0,))),
        ("differentiate{wanted=q,k given=0,2}", Differentiate(("q", "k"), (0, 2))),
    ):
        assert parse_passes(text) == [options]
        assert parse_passes(pipeline_text([options])) == [options]


def test_verify_each_follows_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = parse_passes("simplify-masks,differentiate{wanted=q,v},simplify-masks")
    PassManager(passes, [VerifyMeaning()]).run(raised(stacked, QKV))
    monkeypatch.setattr("attnc.compiler.passes.differentiate._Gradient._reorder", lambda *_: None)
    monkeypatch.setattr("attnc.compiler.passes.differentiate._Gradient._call", lambda *_: None)
    with pytest.raises(PassVerifyError, match="differentiate changed result 0 of stacked_gradient"):
        PassManager(passes, [VerifyMeaning()]).run(raised(stacked, QKV))
