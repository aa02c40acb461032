"""The trials of one search, in Optuna's storage: any number of processes, on any machines, may add to them.

A trial's value is the candidate's time over the default's, measured in turns, so that trials of busy hours and of other
machines compare.  Nothing is lost when a process dies but the trial that it was running.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from ..cache import digest
from .errors import StorageError
from .records import dumps
from .space import Candidate, Space

LEADS = 10  # candidates that the cost model names before the search sets in
LOST = ("interrupted", "its process was killed")  # reasons that say nothing about a candidate
AGAIN = 2  # times that a candidate whose process was killed is tried


@dataclass(frozen=True)
class Trial:
    """A finished trial: the time over that of the default, or why there is none."""

    choice: str
    ratio: float | None
    reason: str = ""
    seconds: float = 0.0
    default_seconds: float = 0.0


class Study:
    """The trials over one space.  ``limit`` is how many seconds a trial may take: one that runs longer has died."""

    def __init__(self, storage: str, name: str, space: Space, limit: float, about: Mapping[str, Any] | None = None):
        self.space, self.limit = space, limit
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        distributions = {name: CategoricalDistribution(values) for name, values in space.choices.items()}
        self._distributions = distributions
        with _failing(storage), _alone(storage):
            engine = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
            database = optuna.storages.RDBStorage(storage, engine_kwargs=engine)
            sampler = _Sampler(space, self._taken, distributions)
            self._study = optuna.create_study(
                storage=database, sampler=sampler, study_name=name, direction="minimize", load_if_exists=True
            )
            if not self._study.user_attrs:
                self._begin(about or {})
        self._storage = storage

    def _begin(self, about: Mapping[str, Any]) -> None:
        """A new study: the cost model's favourites wait in its queue, which every process takes its trials from."""
        for key, value in {"attnc": 1, **about}.items():
            self._study.set_user_attr(key, value)
        for candidate in self.space.candidates[:LEADS]:
            self._study.enqueue_trial(candidate.params)

    def claim(self) -> tuple[Any, Candidate] | None:
        """A trial to run next, with its candidate; None if every candidate has been tried or is being tried."""
        with _failing(self._storage):
            self._bury()
            while len(self._taken(self._study)) < len(self.space.candidates):
                trial = self._study.ask()
                by = {"node": platform.node(), "process": os.getpid(), "started": time.time()}
                trial.set_user_attr("by", by)  # at once: each writing waits for the disk
                params = {name: trial.suggest_categorical(name, d.choices) for name, d in self._distributions.items()}
                candidate = self._find(params)
                if candidate is not None and candidate.text not in self._taken(self._study, before=trial.number):
                    return trial, candidate
                self._study.tell(trial, state=TrialState.PRUNED)  # somebody else was faster
        return None

    def tell(self, trial: Any, answer: Mapping[str, Any]) -> None:
        """Record what came of a trial: a measurement, or ``failed`` and why."""
        with _failing(self._storage):
            trial.set_user_attr("answer", dict(answer))
            if "failed" in answer:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, float(answer["ratio"]))

    def trials(self) -> list[Trial]:
        """The finished ones that say something about their candidate, fastest first, failures last."""
        with _failing(self._storage):
            counting = [t for t in self._study.get_trials(deepcopy=False) if _counts(t)]
        pairs = [(self._find(t.params), t) for t in counting]
        found = [_trial(candidate, t) for candidate, t in pairs if candidate is not None]
        return sorted(found, key=lambda t: (t.ratio is None, t.ratio, t.choice))

    # ---- inside

    def _find(self, params: Mapping[str, str]) -> Candidate | None:
        full = dict.fromkeys(self._distributions, "")
        return next((c for c in self.space.candidates if full | c.params == params), None)

    def _taken(self, study: optuna.Study, before: int | None = None) -> set[str]:
        """Candidates that somebody has tried or is trying, ``before`` a trial of this number."""
        taken: set[str] = set()
        killed: Counter[str] = Counter()
        for t in study.get_trials(deepcopy=False):
            candidate = self._find(t.params) if t.params and t.number != before else None
            if candidate is None:
                continue
            if _counts(t) or (t.state == TrialState.RUNNING and (before is None or t.number < before)):
                taken.add(candidate.text)
            elif _reason(t) == LOST[1]:
                killed[candidate.text] += 1
        return taken | {text for text, times in killed.items() if times >= AGAIN}

    def _bury(self) -> None:
        """Fail the running trials of processes that are no more."""
        for t in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _is_dead(t, self.limit):
                with contextlib.suppress(ValueError, RuntimeError):  # somebody else has just done it
                    self._study._storage.set_trial_user_attr(t._trial_id, "answer", {"failed": LOST[1]})
                    self._study.tell(t.number, state=TrialState.FAIL)


class _Sampler(BaseSampler):
    """Asks Optuna's tree of Parzen estimators, and takes the candidate nearest to its wish that nobody has tried."""

    def __init__(self, space: Space, taken: Any, distributions: dict[str, CategoricalDistribution]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says that these arguments are new
            self._inner = TPESampler(n_startup_trials=LEADS, multivariate=True, constant_liar=True, seed=0)
        self._space, self._taken, self._distributions = space, taken, distributions

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return dict(self._distributions)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        space = self._inner.infer_relative_search_space(study, trial)
        wish = self._inner.sample_relative(study, trial, space) if space else {}
        taken = self._taken(study)
        # the best predicted of those that have most in common with the wish
        free = [c for c in self._space.candidates if c.text not in taken] or list(self._space.candidates)
        best = max(free, key=lambda c: sum(c.params.get(name, "") == value for name, value in wish.items()))
        return {name: best.params.get(name, "") for name in self._distributions}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return self._inner.sample_independent(study, trial, name, distribution)


def _counts(t: FrozenTrial) -> bool:
    """Does a finished trial say something about its candidate?"""
    if t.state == TrialState.FAIL:
        return _reason(t) not in LOST
    return t.state == TrialState.COMPLETE


def _reason(t: FrozenTrial) -> str:
    """Why a trial failed; without a word it did so by an interrupt."""
    return t.user_attrs.get("answer", {}).get("failed", LOST[0])


def _trial(candidate: Candidate, t: FrozenTrial) -> Trial:
    a = t.user_attrs.get("answer", {})
    ratio = t.value if t.state == TrialState.COMPLETE else None
    return Trial(candidate.text, ratio, a.get("failed", ""), a.get("seconds", 0.0), a.get("default_seconds", 0.0))


def _is_dead(t: FrozenTrial, limit: float) -> bool:
    by = t.user_attrs.get("by", {})
    if by.get("node") == platform.node():
        try:
            os.kill(by["process"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    started = by.get("started")
    if started is None:  # killed between two lines: its own clock is in a time zone that nobody noted
        return t.datetime_start is not None and time.time() - t.datetime_start.timestamp() > 24 * 3600
    return time.time() - float(started) > 2 * limit + 60


def study_name(result: str, space: Space) -> str:
    """The study that leads to a result: one for each space, for Optuna wants a study's parameters to stay."""
    return f"attnc {result[:24]} {digest(dumps(space.choices))[:8]}"


def forget(storage: str, results: Iterable[str] | None = None) -> int:
    """Delete the studies that led to results of these names, or all; returns how many."""
    with _failing(storage), _alone(storage):
        database = optuna.storages.RDBStorage(storage)
        names = [s.study_name for s in optuna.get_all_study_summaries(database, include_best_trial=False)]
        parts = None if results is None else {result[:24] for result in results}
        gone = [n for n in names if n.startswith("attnc ") and (parts is None or n.split()[1] in parts)]
        for name in gone:
            optuna.delete_study(study_name=name, storage=database)
    return len(gone)


@contextlib.contextmanager
def _failing(storage: str) -> Iterator[None]:
    """Errors of the database in one class, with the address."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError) as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise StorageError(
            f"the storage {storage} fails: {type(error).__name__}: {text}; give --storage a URL that Optuna can open, "
            "such as sqlite:///trials.db"
        ) from error


@contextlib.contextmanager
def _alone(storage: str) -> Iterator[None]:
    """Keeps other processes out while the tables of a new SQLite file are made, which it does not do by itself."""
    prefix = "sqlite:///"
    if not storage.startswith(prefix):
        yield
        return
    path = Path(storage.removeprefix(prefix))
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = open(f"{path}.lock", "w")  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"the storage {storage} cannot be written: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
