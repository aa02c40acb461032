"""Large results lie in large pages; memory that nobody has any more is used again, and no other."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

import attnc
from attnc.compiler import pages

CPU = torch.device("cpu")
SHAPE = (4, pages.KEPT // 16)  # of float32: as little as is kept


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_kept", {})


def result(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    return pages.empty(shape, dtype=dtype, device=CPU)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(pages, "_madvise", lambda: lambda *args: calls.append(args))
    return calls


@pytest.mark.parametrize("make", [pages.empty, pages.zeros])
def test_whole_pages_within_a_large_block(make, asked) -> None:
    x = make((pages.LEAST + 4,), dtype=torch.uint8, device=CPU)
    ((start, size, advice),) = asked
    assert advice == pages.MADV_HUGEPAGE
    assert x.data_ptr() <= start < start + size <= x.data_ptr() + x.nbytes
    assert start % pages.PAGE == size % pages.PAGE == 0


def test_small_blocks_are_left_alone(asked) -> None:
    pages.empty((pages.LEAST - 1,), dtype=torch.uint8, device=CPU)
    assert not pages.zeros((3, 5), dtype=torch.float32, device=CPU).any()
    assert pages.empty((0, 4), dtype=torch.float32, device=CPU).shape == (0, 4)
    assert not asked


def test_systems_without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_madvise", lambda: None)
    assert pages.empty((pages.LEAST,), dtype=torch.uint8, device=CPU).nbytes == pages.LEAST


def test_memory_that_nobody_has_is_used_again() -> None:
    x = result()
    address = x.data_ptr()
    assert result().data_ptr() != address
    del x
    again = result((SHAPE[1], 2, SHAPE[0]), torch.bfloat16)  # as many bytes
    assert again.data_ptr() == address
    assert again.is_contiguous()
    assert again.isnan().all()  # as torch.empty's is in the tests
    assert result((SHAPE[0], SHAPE[1] + 1)).data_ptr() != address


def test_every_type_is_as_empty_leaves_it() -> None:
    for dtype in (torch.float64, torch.int32, torch.bool, torch.complex64, torch.uint8):
        shape = (pages.KEPT // dtype.itemsize,)
        kept = result(shape, dtype).zero_().data_ptr()
        x = result(shape, dtype)
        assert x.data_ptr() == kept
        assert torch.equal(x.view(torch.uint8), torch.empty(shape, dtype=dtype).view(torch.uint8)), dtype


def squared(x: Tensor) -> Tensor:
    """A value whose gradient keeps ``x``."""
    return (x.requires_grad_() * x).sum()


@pytest.mark.parametrize(
    "hold",
    [lambda x: x[1:, ::2], lambda x: x.numpy(), lambda x: x.untyped_storage(), lambda x: x.detach(), squared,
     lambda x: memoryview(x.numpy())[1:], torch.utils.dlpack.to_dlpack],
)  # fmt: skip
def test_memory_that_somebody_has_is_not(hold: Callable[[Tensor], Any]) -> None:
    x = result()
    address, held = x.data_ptr(), hold(x)
    del x
    assert result().data_ptr() != address
    del held
    gc.collect()
    assert result().data_ptr() == address


@pytest.mark.parametrize("change", [lambda x: x.share_memory_(), lambda x: x.untyped_storage().resize_(0)])
def test_memory_that_became_another_is_forgotten(change: Callable[[Tensor], Any]) -> None:
    x = result()
    change(x)
    changed = x.data_ptr()
    del x
    assert result().data_ptr() != changed
    assert len(pages._kept[pages.KEPT]) == 1


def test_so_much_is_kept_and_no_more() -> None:
    size = pages.LIMIT // 4
    for n in range(6):  # of another size each
        result((size + n,), torch.uint8)
    assert list(pages._kept) == [size + n for n in range(6)][-len(pages._kept) :]
    assert pages.LIMIT - size - 6 < sum(n * len(blocks) for n, blocks in pages._kept.items()) <= pages.LIMIT
    result((pages.LIMIT + 1,), torch.uint8)
    held = [result() for _ in range(2 * pages.EACH)]
    assert len(pages._kept[pages.KEPT]) == pages.EACH < len({x.data_ptr() for x in held})
    attnc.release_memory()
    assert not pages._kept


def test_threads_never_share_a_result() -> None:
    together = Barrier(8)

    def work(mine: int) -> bool:
        together.wait()
        right = True
        for n in range(200):
            held = [result().fill_(1000 * mine + n + m / 4) for m in range(1 + n % 3)]
            right = right and all((x == 1000 * mine + n + m / 4).all() for m, x in enumerate(held))
        return right

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_in_inference_mode() -> None:
    with torch.inference_mode():
        address = result().data_ptr()
        assert (result().fill_(1) == 1).all()
    assert result().data_ptr() == address


def test_results_of_a_compiled_function() -> None:
    @attnc.compile(fallback="error")
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1) @ v

    q, k, v = (torch.randn(1, 4, 128, 64, requires_grad=True) for _ in range(3))
    assert 4 * q.numel() >= pages.KEPT
    first = attend(q, k, v)
    expected, address = first.detach().clone(), first.data_ptr()
    second = attend(q, -k, v)  # while the first one's gradient is still to come
    assert second.data_ptr() != address
    assert torch.equal(first, expected)
    gradients = torch.autograd.grad(first.sum(), (q, k, v), retain_graph=True)
    torch.autograd.grad(second.sum(), (q, k, v))
    assert all(map(torch.equal, gradients, torch.autograd.grad(first.sum(), (q, k, v))))
    del first, second
    third = attend(q, k, v)
    assert torch.equal(third, expected)
