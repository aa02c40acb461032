"""Take the figures of this machine's CPU: ``attnc doctor --measure``.

Peaks and bandwidths are those of matrix products and copies.  Prices within a kernel are taken from kernels of dense
attention in which almost nothing else happens: few features for exponentials, short steps for steps, few keys for
tasks.  The model says what else such a kernel does, and how much of it the figure asked for makes.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from ..backends.host import cores
from .analysis.cpu_time import cpu_time
from .analysis.devices import DEVICES, Device
from .analysis.space import FORWARD, Choice
from .analysis.work import Work
from .figures import Figures

Track = Callable[[str, int, int], None]  # what is measured, and how many figures of how many are known
SECONDS = 0.15  # of each measurement
LEAST = 0.1  # the share of its default below which no figure falls: a difference of two times may be none


def measure(track: Track = lambda what, done, of: None) -> Figures:
    """All figures, in a few seconds."""
    import torch

    from .lowering import load_backend

    name = load_backend("cpu").pipeline_options("f32", torch.device("cpu"))["target"]
    taking = _Taking(DEVICES[name])
    steps = [taking.peaks, taking.bandwidths, taking.prices]
    with _threads(1):
        for n, step in enumerate(steps):
            track(step.__name__, n, len(steps))
            step()
    track("done", len(steps), len(steps))
    return Figures(**{f.name: _tidy(getattr(taking.on, f.name)) for f in fields(Figures)})


def _tidy(x: Any) -> Any:
    return {k: _tidy(v) for k, v in x.items()} if isinstance(x, dict) else float(f"{x:.4g}")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _least(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """The least time of a call: what it takes when nothing disturbs it."""
    call()
    least, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - begin)
    return least


@dataclass
class _Taking:
    """The device as far as it is known."""

    on: Device

    def peaks(self) -> None:
        """Multiply-adds a second, by matrix products that fit the second-level cache."""
        import torch

        f32 = self._product(torch.float32)
        ratio = {name: peak / self.on.peak["f32"] for name, peak in self.on.peak.items()}
        peak = {name: f32 * r for name, r in ratio.items()} | {"f64": self._product(torch.float64)}
        if self.on.matrix:
            peak["bf16"] = self._product(torch.bfloat16)
        count = cores()
        with _threads(count):
            together = self._product(torch.float32, 384 * count) / (count * f32)
        self.on = replace(self.on, peak=peak, together=min(1.0, together))

    @staticmethod
    def _product(dtype: Any, rows: int = 384) -> float:
        import torch

        a, b = torch.ones(rows, 384, dtype=dtype), torch.ones(384, 384, dtype=dtype)
        return rows * 384 * 384 / _least(lambda: torch.mm(a, b))

    def bandwidths(self) -> None:
        """Bytes a second, by copies within a cache, and beyond it."""
        self.on = replace(
            self.on,
            near=self._copied(self.on.second // 4),
            far=self._copied(self.on.second * 2),
            bandwidth=self._copied(256 << 20),
        )

    @staticmethod
    def _copied(size: int) -> float:
        import torch

        a, b = torch.ones(size // 4), torch.ones(size // 4)
        return 2 * size / _least(lambda: b.copy_(a))

    def prices(self) -> None:
        """What a kernel does beside products."""
        self._price("call", (16, 24, 8), "rows=16,keys=24", "f32")
        self._price("exponential", (768, 768, 8), "rows=64,keys=96", "f32")
        self._price("load", (512, 512, 96), "rows=16,keys=96", "f32")
        self._price("step", (512, 768, 8), "rows=16,keys=24", "f32")
        self._price("task", (4096, 24, 16), "rows=16,keys=24", "f32")
        if self.on.matrix:
            self._price("coarse", (768, 768, 32), "rows=256,keys=256", "bf16")

    def _price(self, name: str, sizes: tuple[int, int, int], choice: str, dtype: str) -> None:
        """Set a figure to what one run says, given the others."""
        choice = _scaled(choice, self.on)
        seconds, work, named = _run(sizes, choice, dtype)
        default = getattr(self.on, name)

        def known(value: float) -> Device:
            figure: dict[str, Any] = {name: value}
            return replace(self.on, **figure)

        def model(value: float) -> float:
            on = known(value)
            return on.call + cpu_time(work, on, Choice.read(choice), named)[0].total

        rest = model(0.0)
        price = default * (seconds - rest) / (model(default) - rest)
        self.on = known(max(price, default * LEAST))


def _scaled(choice: str, on: Device) -> str:
    """A choice written for 16 lanes and blocks of 6 keys, for this device."""
    if "256" in choice:
        return choice
    wide = Choice.read(choice)
    return str(Choice(max(1, min(wide.rows // 16, on.vectors)) * on.lanes, wide.keys // 6 * on.height))


def _run(sizes: tuple[int, int, int], choice: str, dtype: str) -> tuple[float, Work, dict[str, int]]:
    """Seconds of dense attention of one head, and how the model sees it."""
    import torch

    from .spaces import space_of

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

    rows, keys, width = sizes
    element = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    q, k, v = (torch.ones(1, 1, n, width, dtype=element) for n in (rows, keys, keys))
    package = importlib.import_module((__package__ or "").rpartition(".")[0])
    function = package.compile(dense, backend="cpu", fallback="error", options={FORWARD: choice})
    with torch.no_grad():
        seconds = _least(lambda: function(q, k, v))
    space = space_of(function.lower(q, k, v))
    return seconds, space.works[0], space.sizes
