"""Figures of this machine's CPU that ``attnc doctor --measure`` took: kept beside the cache, used by the cost model.

They are found by the processor's name, its features and the number of cores.  A device with figures has a name of its
own, ``cpu-avx512@1a2b3c4d``, which ends in their digest.  That name is an option of passes, so that plans made with
figures and without, or with others, have different keys.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..backends.host import cpuinfo
from .analysis.devices import DEVICES, Device, add_measured
from .cache import checked, default_dir, read_own, with_checksum, write_atomically

FORMAT = 1
FOLDER = "figures"


@dataclass(frozen=True)
class Figures:
    """What was measured.  Rates are of one core and a second, prices are seconds; see :class:`~.devices.Device`."""

    peak: dict[str, float]
    together: float
    near: float
    far: float
    bandwidth: float
    exponential: float
    coarse: float
    load: float  # cycles
    step: float
    task: float
    call: float

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text().encode()).hexdigest()[:8]

    def text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @staticmethod
    def read(text: str) -> Figures | None:
        """The figures of :meth:`text`; None for what is something else."""
        try:
            data = json.loads(text)
            return Figures(**data) if data.pop("format") == FORMAT else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def of(self, base: Device) -> Device:
        """The device with these figures."""
        values = {k: v for k, v in asdict(self).items() if k != "peak"}
        return replace(base, name=f"{base.name}@{self.digest}", peak={**base.peak, **self.peak}, **values)


def figures_path(root: Path | None) -> Path:
    """Where the figures of this machine are kept."""
    return (root or default_dir()) / FOLDER / f"{_machine()}.json"


def save(figures: Figures, root: Path | None) -> Path | None:
    """Keep figures, in the place of older ones; None where the folder cannot be written."""
    path = figures_path(root)
    return path if write_atomically(path, with_checksum(path.name, figures.text().encode())) else None


def load(root: Path | None) -> Figures | None:
    """The figures of this machine, if there are any."""
    folder = os.path.join(root or default_dir(), FOLDER)
    if not os.path.isdir(folder):  # before anything is asked about the processor
        return None
    path = figures_path(root)
    try:
        return _read(str(path), path.stat().st_mtime_ns)
    except OSError:
        return None


def measured_target(target: str, root: Path | None) -> str:
    """The name of ``target``, a CPU that is this host, with this machine's figures; itself where there are none."""
    figures = load(root)
    if figures is None or target not in DEVICES:
        return target
    on = figures.of(DEVICES[target])
    add_measured(on)
    return on.name


@lru_cache(maxsize=16)
def _read(path: str, changed: int) -> Figures | None:
    data = read_own(Path(path))
    body = None if data is None else checked(Path(path).name, data)
    return None if body is None else Figures.read(body.decode())


@lru_cache(maxsize=1)
def _machine() -> str:
    text = json.dumps([cpuinfo("model name"), sorted(cpuinfo("flags", "Features").split()), os.cpu_count()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def words(figures: Figures) -> list[tuple[str, str]]:
    """Figures in rows for people."""
    from .explain_text import percent, unit

    rows = [(f"peak {k}", f"{unit(2 * v, 1000, 'FLOP')}/s of one core") for k, v in sorted(figures.peak.items())]
    rows.append(("all cores", f"each reaches {percent(figures.together)} of that"))
    for name, what in (("near", "second-level cache"), ("far", "last cache"), ("bandwidth", "memory")):
        rows.append((what, f"{unit(getattr(figures, name), 1000, 'B')}/s"))
    for name, what in (
        ("exponential", "a vector of exponentials"),
        ("coarse", "the same for bf16"),
        ("step", "a step of a loop"),
        ("task", "a task"),
        ("call", "a call"),
    ):
        rows.append((what, unit(getattr(figures, name), 1000, "s")))
    return [*rows, ("a load", f"{figures.load:.2g} cycles beside multiply-adds")]
