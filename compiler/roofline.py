"""The roofline of a kernel: how fast a device could be at best, by its arithmetic and by its memory.

After Williams, Waterman and Patterson (2009): a kernel of ``flops`` operations on ``bytes`` takes no less than
``flops / peak`` and no less than ``bytes / bandwidth``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .analysis import cost


@dataclass(frozen=True)
class Roofline:
    """Of one core, or of one multiprocessor."""

    device: str
    dtype: str
    peak: float  # operations a second; a multiply-add is two
    bandwidth: float  # bytes a second
    flops: int
    bytes: int

    @staticmethod
    def of(target: str, dtype: str, flops: int, bytes: int) -> Roofline:
        on = cost.device(target)
        return Roofline(on.name, dtype, 2 * on.peak.get(dtype, on.peak["f32"]), on.bandwidth, flops, bytes)

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def ridge(self) -> float:
        """The intensity from which on arithmetic is the limit."""
        return self.peak / self.bandwidth

    @property
    def bound_by(self) -> str:
        return "arithmetic" if self.intensity >= self.ridge else "memory"

    @property
    def roof(self) -> float:
        """Operations a second at this intensity, at best."""
        return min(self.peak, self.intensity * self.bandwidth)

    @property
    def seconds(self) -> float:
        """The least time, of one core."""
        return max(self.flops / self.peak, self.bytes / self.bandwidth)

    def share(self, seconds: float, cores: int = 1) -> float:
        """How much of the roof of ``cores`` a run of ``seconds`` reaches."""
        return self.seconds / cores / seconds if seconds else 0.0

    def text(self, seconds: float, core: str) -> str:
        """In a line, with the predicted time."""
        from .explain_text import percent, unit

        return (
            f"{self.intensity:.3g} FLOP for each byte, so {self.bound_by} is the limit: at best "
            f"{unit(self.seconds, 1000, 's')} on one {core} ({unit(self.roof, 1000, 'FLOP')}/s); "
            f"the prediction reaches {percent(self.share(seconds))} of that"
        )

    def measured(self, seconds: float, cores: int, core: str = "core") -> str:
        """In a line, with a measured time."""
        from .explain_text import percent, unit

        rate = unit(self.flops / seconds, 1000, "FLOP")
        on = f"{cores} {core}s" if cores > 1 else f"one {core}"
        return f"{unit(seconds, 1000, 's')} on {on}: {rate}/s, {percent(self.share(seconds, cores))} of the roof"
