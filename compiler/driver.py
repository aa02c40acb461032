"""The driver: from the text of a captured graph to a :class:`Plan` that runs it, by way of the caches.

A plan is looked for in memory, then on disk, then built.  Both caches are keyed by everything that the
generated code depends on, so that an entry is never stale; one key may hold several plans that rely on
different facts about sizes (see :meth:`Plan.guards_hold`).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..backends.api import BackgroundBackend
from ..backends.forking import building
from ..ir.errors import AttncError
from .cache import DiskCache, Entry, digest, source_hash
from .collector import resting
from .errors import BackendError, nearest
from .late_methods import late_methods
from .lowering import BACKENDS, Gradient, Request, load_backend, show_log
from .plan import FORMAT, Note, Plan
from .settings import Settings

if TYPE_CHECKING:
    import torch
    from xdsl.dialects.builtin import ModuleOp

    from .lowered import Lowered

log = logging.getLogger("attnc")

STAGES = ("capture", "attn", "tile", "mlir", "llvm", "triton", "ttir", "ttgir", "ptx")

_CAPACITY = 1024  # programs kept in memory: some hundred MB of plans and kernels
_memory: OrderedDict[str, list[Plan]] = OrderedDict()
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def _after_fork() -> None:
    # Another thread of the parent may have held a lock, and nobody here would release it.
    _guard._at_fork_reinit()  # type: ignore[attr-defined]
    _locks.clear()


os.register_at_fork(after_in_child=_after_fork)


def select_backend(backend: str, device: torch.device) -> str:
    """The backend for tensors on this device; ``"auto"`` chooses.  Raises :class:`BackendError`."""
    if backend != "auto" and backend not in BACKENDS:
        raise BackendError(f"there is no backend {backend!r}{nearest(backend, ['auto', *BACKENDS])}")
    if backend == "reference":
        return backend
    fitting = {"cpu": "cpu", "cuda": "triton"}.get(device.type)  # PyTorch calls AMD's devices cuda, too
    if backend == "auto":
        if fitting is None:
            raise BackendError(f"no backend compiles for {device.type} tensors; backend='reference' runs anywhere")
        return fitting
    interpreted = backend == "triton" and device.type == "cpu"  # Triton's interpreter, for checking
    if backend != fitting and not interpreted:
        raise BackendError(f"the {backend} backend cannot run on {device.type} tensors; use backend='auto'")
    return backend


def build(
    key: str,
    make_module: Callable[[], ModuleOp],
    *,
    backend: str,
    dtype: str,
    device: torch.device,
    options: Mapping[str, Any] | None = None,
    hints: Mapping[str, int | float] | None = None,
    notes: Callable[[], Iterable[Note]] = tuple,
    wanted: Sequence[int] = (),
) -> Plan:
    """The plan for the program that ``key`` (the canonical text of its graph) stands for.

    ``make_module`` is called only if neither memory nor disk holds the plan; xDSL is imported only then.
    ``dtype`` is the name of the query's element type (``"f32"``).  ``hints`` are the sizes and scalar arguments
    at hand: a plan whose guards they break is passed over.  ``notes`` is asked after ``make_module``.  ``wanted`` are
    the arguments whose gradients will probably be asked for next.
    """
    plain = Request.of(select_backend(backend, device), dtype, device, options).at(hints)
    request = plain.use_tuned(key, make_module, hints)

    def look_ahead() -> None:
        if wanted:
            from .foresight import foresee

            foresee(key, make_module, tuple(wanted), plain.use_tuned(key, make_module, hints, "backward"))

    return _build_tuned(key, request, hints, lambda request: _compile(make_module, notes, request, look_ahead))


def build_gradient(
    key: str,
    make_module: Callable[[], ModuleOp],
    *,
    wanted: Sequence[int],
    given: Sequence[int],
    forward: Plan,
    backend: str,
    dtype: str,
    device: torch.device,
    options: Mapping[str, Any] | None = None,
    hints: Mapping[str, int | float] | None = None,
) -> Plan:
    """The plan for the gradients of the program that :func:`build` made ``forward`` of.

    Its arguments are those of the program, what ``forward`` saves, and the gradients of the outputs numbered
    ``given``; its results are the gradients of the arguments numbered ``wanted``.  Raises an
    :class:`~attnc.ir.errors.AttncError` for a program that has none.
    """
    plain = Request.of(select_backend(backend, device), dtype, device, options).at(hints)
    request = plain.use_tuned(key, make_module, hints, "backward")
    # Plans of one program that rely on different facts may save different things.
    what = f"\ngradient {tuple(wanted)} {tuple(given)} {forward.guards}"
    return _build_tuned(
        key + what, request, hints, lambda request: _compile_gradient(key, make_module, wanted, given, request)
    )


def lower(
    key: str,
    make_module: Callable[[], ModuleOp],
    *,
    backend: str,
    dtype: str,
    device: torch.device,
    options: Mapping[str, Any] | None = None,
    target: str | None = None,
    hints: Mapping[str, int | float] | None = None,
    eager: Any = (),
    files: Mapping[str, str] | None = None,
) -> Lowered:
    """The same program, for looking at: see :class:`Lowered`.

    ``target`` (``"sm_90"``, ``"cpu-avx2"``) may be a device that this machine lacks.  ``hints`` are the sizes at
    hand, for costs; ``eager`` is what the frontend keeps eager, handed through to ``explain``; ``files`` are the
    user's files by the names that locations have.
    """
    from .lowered import Lowered

    if backend == "auto" and target:
        backend = "cpu" if target.startswith("cpu") else "triton"
    elif backend == "auto":
        backend = select_backend(backend, device)
    elif backend not in BACKENDS:
        raise BackendError(f"there is no backend {backend!r}{nearest(backend, ['auto', *BACKENDS])}")
    return Lowered(key, make_module, backend, dtype, device, options or {}, target, hints or {}, eager, files or {})


def untuned(
    key: str,
    make_module: Callable[[], ModuleOp],
    *,
    backend: str,
    dtype: str,
    device: torch.device,
    options: Mapping[str, Any] | None = None,
    hints: Mapping[str, int | float] | None = None,
) -> tuple[str, ...]:
    """The directions that are to be tuned before this call, because the options ask for it and no result is there."""
    if Settings.of(options).autotune != "on":
        return ()
    from .autotune.lookup import untuned

    request = Request.of(select_backend(backend, device), dtype, device, options).at(hints)
    return untuned(request, key, make_module, hints)


def forget() -> None:
    """Empty the memory cache; plans in use stay alive with their users."""
    with _guard:
        _memory.clear()
        _locks.clear()


def disk_cache(options: Mapping[str, Any] | None = None) -> DiskCache:
    """The disk cache that a build with these options uses."""
    return DiskCache(Settings.of(options).cache_dir)


# ---- inside -------------------------------------------------------------------------------------------


def _build_tuned(
    key: str, request: Request, hints: Mapping[str, int | float] | None, compile_plan: Callable[[Request], Plan]
) -> Plan:
    """With the autotuner's choice; without it, should that not compile."""
    try:
        return _build(key, request, hints, lambda: compile_plan(request))
    except AttncError as error:
        if request.tuned is None:
            raise
        log.info("the tuned choice %s is not used: %s", request.tuned.options, error)
    request = replace(request, tuned=None)
    return _build(key, request, hints, lambda: compile_plan(request))


def _build(
    key: str, request: Request, hints: Mapping[str, int | float] | None, compile_plan: Callable[[], Plan]
) -> Plan:
    """From memory, from disk, or compiled."""
    settings = request.settings
    show_log(settings.debug)
    name = _digest(key, request)
    # Instruments show only what runs, so a build under them does not take the result of one without.
    instrumented = settings.verify == "each" or settings.dump is not None
    slot = f"{name} {settings.verify} {settings.dump}" if instrumented else name
    with _lock(slot), building(), late_methods():
        for plan in _memory.get(slot, ()):
            if hints is None or plan.guards_hold(hints):
                return plan
        disk = DiskCache(settings.cache_dir)
        plan = None
        if settings.cache == "on" and not instrumented:
            plan = _from_disk(disk, name, request, hints)
        if plan is None:
            start = time.perf_counter()
            backend = load_backend(request.backend)
            if isinstance(backend, BackgroundBackend):
                backend.wake()
            with resting():
                plan = compile_plan()
            plan.prepare()
            log.info("%s: built for %s in %.0f ms", plan.name, request.backend, (time.perf_counter() - start) * 1e3)
            if settings.cache != "off":
                disk.store(name, Entry(plan.to_json(), plan.artifacts))
        _remember(slot, plan)
        return plan


def _digest(key: str, request: Request) -> str:
    import torch

    backend = load_backend(request.backend)
    parts = {
        "format": FORMAT,
        "backend": [request.backend, backend.fingerprint()],
        "dtype": request.dtype,
        "device": request.device.type,
        "pipeline": {k: str(v) for k, v in request.pipeline_options().items()},
        "settings": request.settings.code_key(),
        "source": source_hash(),
        "torch": torch.__version__,
        "launch": request.launch_attributes,
        "lengths": request.tuned.guards if request.tuned else (),
    }
    return digest(key, json.dumps(parts, sort_keys=True))


def _lock(slot: str) -> threading.Lock:
    with _guard:
        return _locks.setdefault(slot, threading.Lock())


def _remember(slot: str, plan: Plan) -> None:
    with _guard:
        _memory.setdefault(slot, []).append(plan)
        _memory.move_to_end(slot)
        while len(_memory) > _CAPACITY:
            oldest, _ = _memory.popitem(last=False)
            _locks.pop(oldest, None)


def _from_disk(disk: DiskCache, name: str, request: Request, hints: Mapping[str, int | float] | None) -> Plan | None:
    load = load_backend(request.backend).load
    for entry in disk.load(name):
        try:
            plan = Plan.from_json(entry.plan, entry.artifacts, load)
            if hints is not None and not plan.guards_hold(hints):
                continue
            plan.prepare()
        except Exception as error:  # whatever is wrong with an entry, building anew puts it right
            log.warning("an entry of the cache in %s cannot be used and is built again: %s", disk.root, error)
            continue
        log.info("%s: from the disk cache", plan.name)
        return plan
    return None


def _compile(
    make_module: Callable[[], ModuleOp],
    notes: Callable[[], Iterable[Note]],
    request: Request,
    meanwhile: Callable[[], None],
) -> Plan:
    from ..ir.attn import func_of
    from ..ir.expr import parse
    from ..ir.text import verify
    from ..ir.tile import kernels_of
    from .plan_build import begin_plan

    module = make_module()
    verify(module)
    if request.tuned is not None:
        func_of(module).require(map(parse, request.tuned.guards))
    finish = begin_plan(module, request)
    if isinstance(load_backend(request.backend), BackgroundBackend) and kernels_of(module):
        meanwhile()
    plan = finish()
    plan.notes = tuple(notes())
    return plan


def _compile_gradient(
    key: str, make_module: Callable[[], ModuleOp], wanted: Sequence[int], given: Sequence[int], request: Request
) -> Plan:
    from ..ir.attn import func_of
    from .foresight import take
    from .plan_build import begin_plan

    finish = take(key, wanted, given, request)
    if finish is None:
        module = make_module()
        finish = begin_plan(module, replace(request, gradient=Gradient.of(func_of(module), wanted, given)))
    return finish()
