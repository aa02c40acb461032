"""Set-up shared by all tests: an own disk cache, and cores divided between workers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/goldens anew")


def pytest_configure() -> None:
    # Before torch is imported: workers that each take every core only wait for each other.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch's deterministic mode asks of a GPU


@pytest.fixture(scope="session", autouse=True)
def nan_where_nothing_was_written() -> None:
    """Fresh memory is often zero, so that a result that nothing writes looks right: here it holds NaN."""
    import torch

    torch.use_deterministic_algorithms(True)  # which fills torch.empty


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache; the workers of one run share theirs."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("ATTNC_")]:
            patch.delenv(name)
        patch.setenv("ATTNC_CACHE_DIR", str(shared / "attnc-cache"))
        patch.setenv("ATTNC_VERIFY", "structure")  # the tests look at every pass
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needs_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
