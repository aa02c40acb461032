"""Few queries over many keys: heads that share keys in one tile, keys in parts, and one kernel for every context."""

from dataclasses import replace

import pytest
import torch

import attnc
from attnc.compiler import plan_build
from attnc.compiler.passes import split_keys

from ...numerics import assert_matches


def causal(q, k, v, reach=None):
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
    behind = i + k.shape[-2] - q.shape[-2] - j
    live = behind >= 0 if reach is None else (behind >= 0) & (behind < reach)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~live, float("-inf")).softmax(-1) @ v


def window(q, k, v):
    return causal(q, k, v, 300)


def tensors(heads, key_heads, queries, keys, width=16, dtype=torch.float32, batch=1):
    torch.manual_seed(0)
    shapes = [(batch, heads, queries, width), *[(batch, key_heads, keys, width)] * 2]
    return [torch.randn(s).to(dtype) for s in shapes]


@pytest.fixture
def few_processors(monkeypatch):
    """A device with 12 processors, whose 24 tasks the interpreter runs in a tenth of the time of 264."""
    device = split_keys.device
    monkeypatch.setattr(split_keys, "device", lambda target: replace(device(target), processors=12))


@pytest.mark.usefixtures("few_processors")
@pytest.mark.parametrize("fn", [causal, window])
@pytest.mark.parametrize(
    "heads, key_heads, queries, keys",
    [(4, 4, 1, 700), (8, 2, 1, 1000), (8, 2, 3, 1023), (6, 2, 5, 5), (2, 2, 16, 513), (3, 1, 17, 300)],
)
def test_numbers(fn, heads, key_heads, queries, keys):
    inputs = tensors(heads, key_heads, queries, keys)
    assert_matches(fn, attnc.compile(fn, backend="triton", fallback="error")(*inputs), inputs)


@pytest.mark.usefixtures("few_processors")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_types(dtype):
    inputs = tensors(4, 1, 2, 401, width=24, dtype=dtype, batch=2)
    assert_matches(causal, attnc.compile(causal, backend="triton", fallback="error")(*inputs), inputs)


def test_one_plan_for_every_context(monkeypatch):
    def sharper(q, k, v):  # no other test's, whose plan would be at hand
        return causal(q * 1.3, k, v)

    compiled = attnc.compile(sharper, backend="triton", fallback="error")
    built = []
    begin = plan_build.begin_plan
    monkeypatch.setattr(plan_build, "begin_plan", lambda *args: built.append(1) or begin(*args))
    for keys in (640, 641, 1500, 130):
        inputs = tensors(10, 2, 1, keys)
        assert_matches(sharper, compiled(*inputs), inputs)
    assert len(built) == 1


def kernels(fn, heads, key_heads, queries, keys, batch=1):
    inputs = tensors(heads, key_heads, queries, keys, 128, torch.bfloat16, batch)
    lowered = attnc.compile(fn, backend="triton").lower(*inputs, target="sm_90")
    from attnc.ir.tile import kernels_of

    return list(kernels_of(lowered.module("tile")).values()), lowered


@pytest.mark.parametrize("keys, parts", [(100, 1), (8192, 33), (65536, 33), (1 << 19, 33)])
def test_work_is_divided_evenly(keys, parts):
    from attnc.ir.expr import evaluate

    (kernel, merge), lowered = kernels(causal, 32, 8, 1, 1000)
    assert kernel.rows.data.size == 16
    assert merge.rows.data.size == 1
    sizes = {**lowered.hints, "N_k": keys}
    grid = [int(evaluate(d.extent, sizes)) for d in kernel.grid.data]
    assert grid == [1, 8, parts, 1]
    loops = [op for op in kernel.body.walk() if op.name == "tile.for"]
    lengths = []
    for s in range(parts):
        env = {**sizes, "b": 0, "hk": 0, "s": s, "t": 0}
        lengths.append(sum(max(0, int(evaluate(r.hi, env) - evaluate(r.lo, env))) for x in loops for r in x.range_list))
    assert sum(lengths) == keys
    assert max(lengths) <= keys / parts + 64


def test_many_sequences_are_not_split():
    found, _ = kernels(causal, 32, 8, 1, 1000, batch=32)
    assert len(found) == 1
