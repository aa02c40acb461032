"""Large pages are asked for within large results, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from attnc.compiler import pages

CPU = torch.device("cpu")


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
