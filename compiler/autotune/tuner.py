"""``attnc.autotune``: search, judge, compare once more, remember."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from ...ir.errors import AttncError
from ..lowered import Lowered
from ..lowering import Request
from ..oracle import EagerTooLargeError
from ..settings import SETTING_OPTIONS, Settings
from .errors import TuningError
from .judge import Expected, expect
from .lookup import place_of
from .pattern import Lengths, Pattern, Place, pattern_of
from .process import Worker
from .records import DIRECTIONS, Record
from .space import Candidate, Space, choice_text, space_of
from .store import Store
from .subject import Subject, program_json, write

if TYPE_CHECKING:
    from .study import Study, Trial

MINUTES = 2.0
LIMIT = 60.0  # seconds that one candidate may take, with its compilation
SECONDS = 0.5  # of measuring one candidate
FINAL_SECONDS = 2.0  # of the last comparison, among the best
FINALISTS = 3
BUILDING = 2.0  # seconds for building those once more
WORTH = 1.02  # times the default's speed, from which on a choice is better than none


@dataclass(frozen=True)
class Progress:
    """Where a search stands.  ``best`` is how many times as fast as the default the best candidate so far is."""

    direction: str
    tried: int
    total: int
    failed: int
    best: float
    choice: str
    seconds_left: float | None


Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Search:
    """What came of tuning one direction."""

    direction: str
    record: Record | None
    considered: int
    candidates: int
    trials: list[Trial] = field(default_factory=list)  # of the whole study, others' too
    interrupted: bool = False
    reason: str = ""  # why there is no result

    def __str__(self) -> str:
        if self.record is None:
            return f"{self.direction}: nothing found: {self.reason}"
        failed = sum(t.ratio is None for t in self.trials)
        best = choice_text(self.record.choice) or f"the default ({self.record.default or 'of its own'})"
        more = f", {failed} failed" if failed else ""
        return (
            f"{self.direction}: {best}, {self.record.speedup:.2f}x over the default; {len(self.trials)} of "
            f"{self.candidates} configurations tried{more} ({self.considered} considered)"
        )


@dataclass(frozen=True)
class TuningReport:
    """What :func:`autotune` found; ``str()`` says it in a line for each direction."""

    function: str
    searches: list[Search]

    @property
    def records(self) -> list[Record]:
        return [s.record for s in self.searches if s.record is not None]

    @property
    def found(self) -> bool:
        """Is there a result for each direction, or nothing to choose?"""
        return all(s.record is not None or not s.candidates for s in self.searches)

    @property
    def interrupted(self) -> bool:
        return any(s.interrupted for s in self.searches)

    def __str__(self) -> str:
        return "\n".join([self.function, *(f"  {s}" for s in self.searches)])


def autotune(
    fn: Callable[..., Any],
    *args: Any,
    backward: bool = True,
    minutes: float = MINUTES,
    trials: int | None = None,
    storage: str | None = None,
    check: tuple[tuple[Any, ...], dict[str, Any]] | None = None,
    watch: Watch | None = None,
    **kwargs: Any,
) -> TuningReport:
    """Find the fastest way to compute ``fn`` for these arguments, forward and backward, and remember it.

    Later calls use the result, in other processes too.  Half of ``minutes`` goes to each direction; ``trials`` also
    bounds the number of candidates of each.  ``storage`` is where Optuna keeps the search: a URL that several processes
    or machines may share.  ``check`` are smaller arguments to judge candidates with, where running the function eagerly
    in float64 on these would not fit.  Raises :class:`TuningError`.
    """
    package = (__package__ or "").rsplit(".", 2)[0]
    options = getattr(fn, "options", {})
    settings = Settings.of(options)
    fixed = sorted(options.keys() - SETTING_OPTIONS)
    fixed += [name for name in ("skip", "opt_bisect_limit") if getattr(settings, name)]
    if fixed or getattr(fn, "backend", "auto") == "reference":
        what = f"its options {', '.join(fixed)} choose already" if fixed else "the reference backend interprets it"
        raise TuningError(f"{getattr(fn, '__name__', fn)} leaves nothing to tune: {what}")
    door = importlib.import_module(".frontends.tuning", package)  # a frontend's, as the decorator is
    compiled = door.plain(fn)
    subject = door.subject(compiled, args, kwargs)
    known = subject if check is None else door.subject(compiled, *check)
    directions = DIRECTIONS if backward else DIRECTIONS[:1]
    return tune(subject, known, directions=directions, minutes=minutes, trials=trials, storage=storage, watch=watch)


def tune(
    subject: Subject,
    known: Subject | None = None,
    *,
    directions: Sequence[str] = DIRECTIONS,
    minutes: float = MINUTES,
    trials: int | None = None,
    storage: str | None = None,
    watch: Watch | None = None,
) -> TuningReport:
    """The same for a subject; candidates are judged on ``known``, the same program with inputs that may be smaller."""
    end = time.monotonic() + 60 * minutes
    if known is None or known.program.graph != subject.program.graph:  # another length may make another program
        known = subject
    if not (subject.program.wanted and subject.program.given):
        directions = [d for d in directions if d != "backward"]
    try:
        expected = expect(known, "backward" in directions)
    except EagerTooLargeError as error:
        raise TuningError(f"candidates are judged by the function run eagerly in float64: {error}") from None
    searches: list[Search] = []
    with _worker(subject, known, expected) as worker:
        for n, direction in enumerate(directions):
            now = time.monotonic()
            until = now + (end - now) / (len(directions) - n)
            searches.append(_search(subject, direction, worker, storage, watch, until, trials))
            if searches[-1].interrupted:
                break
    return TuningReport(subject.program.function, searches)


def _search(
    subject: Subject,
    direction: str,
    worker: Worker,
    storage: str | None,
    watch: Watch | None,
    until: float,
    trials: int | None,
) -> Search:
    try:
        tuner = _Tuner(subject, direction, worker, storage, watch)
    except TuningError:
        raise
    except AttncError as error:  # PyTorch computes the gradient, say
        return Search(direction, None, 0, 0, reason=str(error))
    return tuner.run(until - FINAL_SECONDS - BUILDING, trials)


@contextmanager
def _worker(subject: Subject, known: Subject, expected: Expected) -> Iterator[Worker]:
    """A worker that has the job in files."""
    with TemporaryDirectory(prefix="attnc-autotune-") as folder:
        job = {
            "program": program_json(subject.program),
            "inputs": subject.inputs,
            "known": known.inputs,
            "expected": expected.to_json(),
            "threads": torch.get_num_threads(),
        }
        worker = Worker(write(Path(folder), "job", job))
        try:
            yield worker
        finally:
            worker.close()


class _Tuner:
    """The search in one direction."""

    def __init__(self, subject: Subject, direction: str, worker: Worker, storage: str | None, watch: Watch | None):
        self.program, self.direction, self.worker = subject.program, direction, worker
        self.watch = watch or (lambda progress: None)
        program = subject.program
        lowered = lowered_of(subject, direction)
        self.request: Request = lowered.request
        self.store = Store(self.request.settings.cache_dir)
        self.space: Space = space_of(lowered)
        module = lowered_of(subject, "forward").module("attn")
        self.pattern: Pattern = pattern_of(module)
        self.widths = _widths(module)
        at = self.pattern.lengths(program.hints)
        if at is None:
            raise TuningError(f"{program.function}: {', '.join(self.pattern.sizes)} are known only once it runs")
        self.lengths: Lengths = at
        self.place: Place = place_of(self.request)
        self.storage = storage or self.store.studies

    def run(self, end: float, most: int | None) -> Search:
        """Try candidates until the time, or the number of trials, is over."""
        from .study import Study, study_name

        space = self.space
        if not space.candidates:
            reason = "the compiler's choice is the only one"
            return Search(self.direction, None, space.considered, 0, reason=reason)
        name = study_name(self._record([], "", 1.0, 1.0).name, space)
        about = {"function": self.program.function, "direction": self.direction, "device": self.place.device}
        study = Study(self.storage, name, space, LIMIT, about)
        interrupted, count, trials = False, 0, study.trials()
        best = self._best(trials)
        try:
            self._report(trials, end)
            while (most is None or count < most) and (not count or time.monotonic() < end):
                if (claimed := study.claim()) is None:
                    break
                self._try(study, *claimed)
                count += 1
                trials = study.trials()  # others' too
                self._report(trials, end)
                if (found := self._best(trials)) and (best is None or found.choice != best.choice):
                    best = found  # now, and not at the end, which a killed process does not see
                    self._keep_best(trials, best)
            record = self._contest(trials)
        except KeyboardInterrupt:
            interrupted, trials = True, study.trials()
            best = self._best(trials)
            record = self._keep_best(trials, best) if best else None
        reason = "" if record else (trials[0].reason if trials else "no candidate was measured")
        return Search(self.direction, record, space.considered, len(space.candidates), trials, interrupted, reason)

    # ---- inside

    def _try(self, study: Study, trial: Any, candidate: Candidate) -> None:
        """Measure one candidate and record what came of it."""
        try:
            answer = self.worker.ask(
                LIMIT, do="measure", direction=self.direction, choice=dict(candidate.options), seconds=SECONDS
            )
        except KeyboardInterrupt:
            study.tell(trial, {"failed": "interrupted"})
            raise
        study.tell(trial, answer)

    def _contest(self, trials: list[Trial]) -> Record | None:
        """Compare the best with the default once more, all in turns, and keep the winner."""
        finalists = [t.choice for t in trials if t.ratio is not None][:FINALISTS]
        if not finalists:
            return None
        choices = [{}, *(self._options(text) for text in finalists)]
        limit = LIMIT * len(choices)
        answer = self.worker.ask(limit, do="contest", direction=self.direction, choices=choices, seconds=FINAL_SECONDS)
        if "failed" in answer:
            return self._keep_best(trials, trials[0])
        default, *times = answer["seconds"]
        seconds, choice = min(zip(times, finalists, strict=True))
        if default < seconds * WORTH:
            seconds, choice = default, ""
        return self._keep(trials, choice, seconds, default)

    def _keep_best(self, trials: list[Trial], best: Trial) -> Record:
        """Keep the best trial as it was measured, or the default if it is no worse."""
        if best.ratio is not None and best.ratio * WORTH < 1:
            return self._keep(trials, best.choice, best.seconds, best.default_seconds)
        return self._keep(trials, "", best.default_seconds, best.default_seconds)

    def _keep(self, trials: list[Trial], choice: str, seconds: float, default: float) -> Record:
        record = self._record(trials, choice, seconds, default)
        if not self.store.put(record):
            raise TuningError(f"the result cannot be written to {self.store.root}; set ATTNC_CACHE_DIR")
        return record

    def _record(self, trials: list[Trial], choice: str, seconds: float, default: float) -> Record:
        program = self.program
        return Record(
            pattern=self.pattern.digest,
            direction=self.direction,
            lengths=self.lengths,
            device=self.place.device,
            versions=self.place.versions,
            choice=self._options(choice),
            default=self.space.own,
            seconds=seconds,
            default_seconds=default,
            date=datetime.now(UTC).date().isoformat(),
            function=program.function,
            dtype=program.dtype,
            widths=self.widths,
            sizes={k: v for k, v in program.hints.items() if isinstance(v, int)},
            tried=len(trials),
            failed=sum(t.ratio is None for t in trials),
        )

    def _options(self, choice: str) -> dict[str, str]:
        candidate = self.space.by_text(choice)
        return dict(candidate.options) if candidate else {}

    def _best(self, trials: list[Trial]) -> Trial | None:
        return trials[0] if trials and trials[0].ratio is not None else None

    def _report(self, trials: list[Trial], end: float) -> None:
        best = self._best(trials)
        faster = best is not None and best.ratio is not None and best.ratio < 1
        self.watch(
            Progress(
                self.direction,
                len(trials),
                len(self.space.candidates),
                sum(t.ratio is None for t in trials),
                1 / best.ratio if faster and best and best.ratio else 1.0,
                best.choice if faster and best else "",
                max(0.0, end - time.monotonic()),
            )
        )


def lowered_of(subject: Subject, direction: str) -> Lowered:
    """A subject's program, for looking at, with the choices that the compiler makes by itself."""
    from ...ir.attn import func_of
    from ...ir.text import parse_module

    p = subject.program
    module = parse_module(p.module, p.function)
    options: Mapping[str, Any] = {"autotune": "off"}
    device = torch.device(p.device)
    lowered = Lowered(p.graph, module.clone, p.backend, p.dtype, device, options, None, p.hints)
    if direction == "forward":
        return lowered
    names = func_of(module).names
    return lowered.backward([names[n] for n in p.wanted], p.given)


def _widths(module: Any) -> str:
    from ...ir import attn

    found = [f"{op.width.data} x {op.value_width.data}" for op in module.walk() if isinstance(op, attn.AttendOp)]
    return ", ".join(dict.fromkeys(found))
