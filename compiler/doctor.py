"""``attnc doctor``: versions, processor, GPU, backends, cache, and the problems they have."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata

from ..backends.host import cores, cpuinfo, processor
from ..ir.errors import AttncError
from .settings import VARIABLES, Settings, check_environment

PACKAGES = ("attnc", "torch", "torch-mlir", "triton", "xdsl", "islpy", "sympy", "networkx", "numpy")
OLDEST = {"torch": (2, 11), "triton": (3, 6)}
# What makes a difference to the CPU backend, as /proc/cpuinfo calls it.
CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


@dataclass(frozen=True)
class Problem:
    """Something wrong, and its cure; a fatal one keeps attnc from working."""

    what: str
    cure: str
    fatal: bool = False


@dataclass(frozen=True)
class Section:
    """A few related facts."""

    title: str
    rows: list[tuple[str, str]]


@dataclass
class Diagnosis:
    """What :func:`diagnose` found."""

    sections: list[Section] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def diagnose(*, run: bool = True) -> Diagnosis:
    """Look at the machine; with ``run`` also compile and check a small function on every backend that is there."""
    report = Diagnosis()
    for part in (_versions, _processor, _gpu, _cache, _environment):
        report.sections.append(part(report.problems))
    if run and not any(p.fatal for p in report.problems):
        report.sections.append(Section("check: a causal window, compiled and compared", list(_trials(report.problems))))
    return report


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions(problems: list[Problem]) -> Section:
    rows = [("Python", platform.python_version())]
    found = {p: version(p) for p in PACKAGES}
    rows += [(p, v or "not installed") for p, v in found.items()]
    torch = found["torch"]
    if torch is None:
        problems.append(Problem("torch is not installed", "pip install 'torch>=2.11'", fatal=True))
    for package, oldest in OLDEST.items():
        has = found[package]
        if has is not None and tuple(int(x) for x in re.findall(r"\d+", has)[:2]) < oldest:
            wanted = f"{package}>={'.'.join(map(str, oldest))}"
            problems.append(Problem(f"{package} {has} is too old", f"pip install '{wanted}'", fatal=package == "torch"))
    missing = [p for p in ("xdsl", "islpy") if found[p] is None]
    problems += [Problem(f"{p} is not installed", f"pip install {p}", fatal=True) for p in missing]
    if found["torch-mlir"] is None:
        problems.append(Problem("torch-mlir is not installed: the cpu backend is missing", "pip install torch-mlir"))
    if found["triton"] is None:
        problems.append(Problem("triton is not installed: the triton backend is missing", "pip install 'triton>=3.6'"))
    return Section("versions", rows)


def _processor(problems: list[Problem]) -> Section:
    flags, usable = cpuinfo("flags", "Features").split(), cores()
    rows = [
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("model", processor()),
        ("features", " ".join(f for f in CPU_FEATURES if f in flags) or "unknown"),
        ("cores", f"{usable} usable of {os.cpu_count()}"),
    ]
    if importlib.util.find_spec("torch") is not None:
        import torch

        threads = torch.get_num_threads()
        rows.append(("threads", str(threads)))
        if threads > usable:
            problems.append(
                Problem(
                    f"{threads} threads share {usable} cores",
                    f"export OMP_NUM_THREADS={usable}, or torch.set_num_threads",
                )
            )
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        problems.append(Problem("this processor lacks AVX2", "kernels run, but slowly; nothing to be done in software"))
    rows.append(("figures", _figures()))
    return Section("processor", rows)


def _figures() -> str:
    from .figures import load

    found = load(Settings.of().cache_dir)
    return "defaults (attnc doctor --measure takes this machine's)" if found is None else f"measured, {found.digest}"


def _gpu(problems: list[Problem]) -> Section:
    if importlib.util.find_spec("torch") is None:
        return Section("GPU", [("", "unknown without torch")])
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        reason = "none found" if built else "this torch is built without CUDA or ROCm"
        if os.path.exists("/dev/nvidiactl"):
            problems.append(
                Problem(
                    f"there is an NVIDIA driver, but PyTorch sees no GPU ({reason})", "install a CUDA build of torch"
                )
            )
        return Section(
            "GPU", [("", f"{reason}; GPU code can still be looked at: attnc dump --stage ptx --target sm_90")]
        )
    rows = []
    for n in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(n)
        rows.append((str(n), f"{p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB"))
        if (p.major, p.minor) < (8, 0) and torch.version.cuda:
            problems.append(Problem(f"{p.name} is older than sm_80", "use backend='reference', or a newer GPU"))
    return Section("GPU", rows)


def _cache(problems: list[Problem]) -> Section:
    from .cache import DiskCache

    stats = DiskCache(Settings.of().cache_dir).stats()
    folder = stats.root
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(parent).free
    if not os.access(parent, os.W_OK):
        cure = "set ATTNC_CACHE_DIR to a folder that can"
        problems.append(Problem(f"the cache folder {folder} cannot be written: every process compiles anew", cure))
    elif free < 100 * 2**20:
        problems.append(
            Problem(f"only {_bytes(free)} are free where the cache is", "free some, or set ATTNC_CACHE_DIR")
        )
    rows = [
        ("folder", str(folder)),
        ("holds", f"{stats.entries} entries, {_bytes(stats.bytes)}"),
        ("free", _bytes(free)),
    ]
    return Section("cache", rows)


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


def _environment(problems: list[Problem]) -> Section:
    problems += [Problem(line, "unset it, or correct its name") for line in check_environment()]
    rows = [(v.name, os.environ[v.name]) for v in VARIABLES if os.environ.get(v.name)]
    return Section("environment", rows or [("", "no ATTNC_ variable is set")])


def _trials(problems: list[Problem]) -> Iterator[tuple[str, str]]:
    import torch

    from .driver import BACKENDS
    from .validation import validate

    def window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.mT / q.shape[-1] ** 0.5
        i = torch.arange(q.shape[-2], device=q.device)[:, None]
        j = torch.arange(k.shape[-2], device=q.device)[None, :]
        live = (j <= i) & (i - j < 32)
        return scores.masked_fill(~live, float("-inf")).softmax(-1) @ v

    package = importlib.import_module((__package__ or "").rpartition(".")[0])
    needs = {"cpu": "torch_mlir", "triton": "triton"}
    for backend in BACKENDS:
        if importlib.util.find_spec(needs.get(backend, "torch")) is None:
            yield backend, "not installed"
            continue
        if backend == "triton" and not torch.cuda.is_available():
            yield backend, "no GPU to run on"
            continue
        device = "cuda" if backend == "triton" else "cpu"
        inputs = [torch.randn(1, 2, 100, 16, generator=torch.Generator().manual_seed(n)).to(device) for n in range(3)]
        start = time.perf_counter()
        try:
            report = validate(package.compile(window, backend=backend, fallback="error"), *inputs, backward=False)
        except AttncError as error:
            problems.append(Problem(f"the {backend} backend fails: {error}", "report it, with this page", fatal=True))
            yield backend, "fails"
            continue
        except Exception as error:
            problems.append(
                Problem(
                    f"the {backend} backend fails: {type(error).__name__}: {error}",
                    "report it, with this page",
                    fatal=True,
                )
            )
            yield backend, "fails"
            continue
        if not report.ok:
            problems.append(
                Problem(
                    f"the {backend} backend gives wrong numbers:\n{report}", "report it, with this page", fatal=True
                )
            )
        yield backend, f"{'right' if report.ok else 'WRONG'}, {time.perf_counter() - start:.2f} s with compilation"
