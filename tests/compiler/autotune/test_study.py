"""Trials in a shared database: claimed once, kept whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attnc.compiler.autotune.errors import StorageError
from attnc.compiler.autotune.space import Candidate, Space
from attnc.compiler.autotune.study import LEADS, Study

COUNT = 12


def space(count: int = COUNT) -> Space:
    texts = [f"rows={16 * (1 + n % 4)},keys={16 * (1 + n // 4)}" for n in range(count)]
    return Space(tuple(Candidate((("choice", t),), 1.0 + n) for n, t in enumerate(texts)), "own", count)


def study(folder: Path, limit: float = 60.0) -> Study:
    return Study(f"sqlite:///{folder / 'trials.db'}", "a study", space(), limit)


def finish(found: Study, most: int = 1000) -> list[str]:
    tried = []
    while len(tried) < most and (claimed := found.claim()):
        trial, candidate = claimed
        found.tell(trial, {"ratio": 2.0 - candidate.predicted / 100, "seconds": 1.0, "default_seconds": 1.0})
        tried.append(candidate.text)
    return tried


def test_every_candidate_is_tried_once_favourites_first(tmp_path: Path):
    found = study(tmp_path)
    tried = finish(found)
    assert sorted(tried) == sorted(c.text for c in space().candidates)
    assert tried[:LEADS] == [c.text for c in space().candidates[:LEADS]]
    assert found.claim() is None
    assert found.trials()[0].choice == space().candidates[-1].text  # the smallest ratio


def test_a_failure_is_kept_and_not_tried_again(tmp_path: Path):
    found = study(tmp_path)
    trial, candidate = found.claim()  # type: ignore[misc]
    found.tell(trial, {"failed": "it crashed"})
    assert [(t.choice, t.ratio, t.reason) for t in found.trials()] == [(candidate.text, None, "it crashed")]
    assert candidate.text not in finish(study(tmp_path))


def test_an_interrupted_trial_is_tried_again(tmp_path: Path):
    found = study(tmp_path)
    trial, candidate = found.claim()  # type: ignore[misc]
    found.tell(trial, {"failed": "interrupted"})
    assert found.trials() == []
    assert candidate.text in finish(found)


WORKER = """
import sys
sys.path.insert(0, {folder!r})
from test_study import *
found = study(Path({where!r}))
"""


def start(where: Path, code: str) -> subprocess.Popen[str]:
    text = WORKER.format(folder=os.path.dirname(__file__), where=str(where)) + code
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_study(tmp_path: Path):
    both = [start(tmp_path, "print(len(finish(found)))") for _ in range(2)]
    counts = [int(process.communicate()[0]) for process in both]
    tried = [t.choice for t in study(tmp_path).trials()]
    assert sorted(set(tried)) == sorted(c.text for c in space().candidates)
    assert sum(counts) == len(tried)
    assert COUNT <= len(tried) <= COUNT + 1  # both may have named one candidate at the same instant


def test_a_killed_process_loses_the_running_trial_only(tmp_path: Path):
    process = start(tmp_path, "finish(found, 2); print(found.claim()[1].text, flush=True); sys.stdin.read()")
    assert process.stdout is not None
    running = process.stdout.readline().strip()
    found = study(tmp_path)
    trial, other = found.claim()  # type: ignore[misc]
    assert other.text != running  # alive, it keeps its candidate
    found.tell(trial, {"ratio": 1.0})
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(found.trials()) == 3
    assert running in finish(found)
    assert len(found.trials()) == COUNT


def test_a_storage_that_cannot_be_opened(tmp_path: Path):
    for url in ("nosuch://here", f"sqlite:///{tmp_path}"):
        with pytest.raises(StorageError, match="storage"):
            Study(url, "a study", space(), 60.0)
