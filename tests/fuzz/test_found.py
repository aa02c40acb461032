"""Programs that the fuzzer found and that were mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from .checks import check
from .parts import Tensor
from .programs import Program

IJ = "i, j = torch.arange(n)[:, None], torch.arange(m)[None, :]"
SHARED = "k, v = (x.repeat_interleave(heads // k.shape[1], 1) for x in (k, v))"
MEMORY = (Tensor("memory_k", "(heads, 2, d)", "normal"), Tensor("memory_v", "(heads, 2, e)", "normal"))


def program(*body: str, sizes: tuple[int, ...], dtype: str = "float32", tensors: tuple[Tensor, ...] = ()) -> Program:
    return Program((*body, "return o"), tensors, sizes, dtype, "plain")  # type: ignore[arg-type]


FOUND = {
    "the weight between two attentions with one key": program(
        "first = (q @ k.mT / 4).softmax(-1) @ v",
        "w = torch.sigmoid(mix)",
        "o = w * first + (1 - w) * ((q @ k.swapaxes(-1, -2)).softmax(-1) @ v)",
        sizes=(1, 2, 2, 1, 1, 16, 16),
        tensors=(Tensor("mix", "(b, heads, n, 1)", "normal"),),
    ),
    "one key for each query, and a logarithm of the probabilities": program(
        IJ,
        "s = (q @ k.mT) / 8 + torch.zeros(n, m, dtype=q.dtype).masked_fill((j + 3 * i) % 7 != 4, float('-inf'))",
        "o = s.log_softmax(-1).exp() @ v",
        sizes=(2, 3, 3, 7, 7, 32, 32),
        dtype="float64",
    ),
    "distances that meet in one row of a table of relative keys": program(
        IJ,
        "q, k, v = (torch.cat([x[:, :, 1:], x[:, :, :1]], 2) for x in (q, k, v))",
        "s = q @ k.mT / 4 + torch.einsum('bhid,ijd->bhij', q, rows[(j - i).reshape(n, m).clamp(-3, 3) + 3])",
        "o = s.softmax(-1) @ v",
        sizes=(1, 3, 3, 16, 16, 16, 16),
        tensors=(Tensor("rows", "(7, d)", "normal"),),
    ),
    "products of projections in bf16, verified in float64": program(
        IJ,
        "s = q @ k.mT + (q @ rows.mT).gather(-1, ((i - j).reshape(n, m).clamp(-2, 2) + 2).expand(b, heads, n, m))",
        "o = s.masked_fill((i - j).abs() > 4, float('-inf')).softmax(-1) @ v",
        sizes=(2, 1, 1, 64, 64, 3, 3),
        dtype="bfloat16",
        tensors=(Tensor("rows", "(5, d)", "normal"),),
    ),
    "gradients of values where nothing scales scores": program(
        IJ,
        "q, k, v = (x.flip(2) for x in (q, k, v))",
        "o = ((q @ k.mT).softmax(-1) @ v).flip(2)",
        sizes=(1, 1, 1, 30, 30, 32, 32),
    ),
    "the least number as a fill of whole rows": program(
        IJ,
        "s = (q @ k.mT - 0.25 * (h + 1) * (i - j).abs()).masked_fill(~(i >= 8), torch.finfo(q.dtype).min)",
        "o = s.softmax(-1) @ v",
        sizes=(1, 1, 1, 16, 16, 8, 7),
    ),
    "constants are stored where a mask is never true": program(
        IJ,
        "s = (q @ k.mT).masked_fill((i >= 0) | (j >= 0), float('-inf'))",
        "o = (s - s.logsumexp(-1, keepdim=True)).exp() @ v * 2",
        sizes=(2, 1, 1, 1, 1, 1, 24),
    ),
    "sizes of a key that is not read": program(
        SHARED,
        IJ,
        "o = (q @ k.mT).masked_fill((i >= 0) | (j >= 0), -1e4).softmax(-1) @ v",
        sizes=(1, 4, 2, 63, 63, 16, 24),
        dtype="bfloat16",
    ),
    "tiles of grids are counted for one query": program(
        IJ,
        "near = ((i + j) % 7 == 2) & ((i // 4 - j // 4).abs() <= 0) & ((i % 4 - j % 4).abs() <= 0)",
        "o = torch.where(near, q @ k.mT, float('-inf')).log_softmax(-1).exp() @ v",
        sizes=(1, 1, 1, 1, 3, 16, 16),
    ),
    "tiles without queries are counted": program(
        IJ,
        "p = torch.cat([(q @ k.mT).masked_fill(j > i - 3, float('-inf')), q @ memory_k.mT], -1).softmax(-1)",
        "o = p @ torch.cat([v, memory_v.expand(b, -1, -1, -1)], -2)",
        sizes=(1, 3, 3, 0, 15, 32, 32),
        tensors=MEMORY,
    ),
    "keys past the end weigh nothing where every score is very low": program(
        IJ,
        "o = (q @ k.mT).masked_fill(i != j, -1e4).softmax(-1) @ v",
        sizes=(1, 1, 1, 96, 3, 32, 32),
        dtype="bfloat16",
    ),
    "keys past the end weigh nothing where every score is low": program(
        "o = (-((q @ k.mT) ** 2) - 200).softmax(-1) @ v",
        sizes=(1, 1, 1, 96, 3, 32, 32),
        dtype="bfloat16",
    ),
    "a mask that is added stays beside a table read by a clamped distance": program(
        IJ,
        "s = q @ k.mT + wheel[:, (i - j).clamp(-8, 8) + 8]",
        "o = (s + torch.where(i - j >= 4, 0.0, float('-inf'))).softmax(-1) @ v",
        sizes=(2, 1, 1, 17, 40, 16, 16),
        tensors=(Tensor("wheel", "(heads, 17)", "normal"),),
    ),
    "two masks are added, and one says what the other does": program(
        IJ,
        "s = q @ k.mT * (1 + wheel[:, (i + j) % 6]) + torch.where(i - j > 3, 0.0, float('-inf'))",
        "o = (s + torch.where(j + 4 <= i, 0.0, float('-inf'))).softmax(-1) @ v",
        sizes=(1, 2, 2, 17, 17, 16, 16),
        tensors=(Tensor("wheel", "(heads, 6)", "normal"),),
    ),
    "a choice between two numbers has the precision of the others": program(
        IJ,
        "o = (q @ k.mT + torch.where(i > j, 0.1, 0.3).to(q.dtype)).softmax(-1) @ v",
        sizes=(1, 2, 2, 5, 9, 8, 8),
        dtype="float64",
    ),
    "an output of one feature is merged with the heads": program(
        "o = (q @ k.mT).softmax(-1) @ v",
        "o = o.transpose(1, 2).flatten(2)",
        sizes=(1, 1, 1, 3, 3, 1, 1),
    ),
    "keys past the end weigh nothing where weights are kept": program(
        "o = (-((q @ k.mT / 8) ** 2) - 200).softmax(-1) @ v",
        sizes=(1, 1, 1, 96, 3, 32, 32),
    ),
}


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("what", FOUND)
def test_found(what: str, backend: str, tmp_path: Path) -> None:
    assert not check(FOUND[what], tmp_path, backend, verify=backend == "cpu"), "stays eager"
