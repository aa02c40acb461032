"""Tuning a real function: what wins is right, used by later processes, and named by explain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attnc
from attnc.compiler.autotune import process, tuner
from attnc.compiler.autotune.process import Worker
from attnc.compiler.autotune.records import Record
from attnc.compiler.autotune.store import Store

SOURCE = """
import torch


def window(q, k, v):
    i = torch.arange(q.shape[-2])[:, None]
    j = torch.arange(k.shape[-2])[None, :]
    return (q @ k.mT / 4).masked_fill((i - j).abs() > 20, -torch.inf).softmax(-1) @ v
"""
# A new process calls the function, then says which of these it imported, and what explain says.
CALL = """
import json, sys, torch, attnc
from window import window
inputs = [x.requires_grad_() for x in torch.randn(3, 1, 1, {length}, 16)]
compiled = attnc.compile(window, fallback="error")
compiled(*inputs).sum().backward()
loaded = [m for m in ("optuna", "sqlalchemy", "sqlite3", "xdsl", "torch_mlir") if m in sys.modules]
page = compiled.lower(*inputs).explain()
kernel = page.kernels[0]
print(json.dumps([loaded, list(kernel.tiles), kernel.why, str(page.backward)]))
"""
SHAPE = ("--shape", "B=1,H=1,N=64,D=16")


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "SECONDS", 0.0)
        patch.setattr(tuner, "FINAL_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    """A folder with the function, and a cache of its own."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "window.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNC_CACHE_DIR", str(folder / "cache"))
        patch.syspath_prepend(folder)
        yield folder


def window():
    from window import window

    return window


def inputs(length: int = 64):
    return torch.randn(3, 1, 1, length, 16, generator=torch.Generator().manual_seed(0)).unbind()


@pytest.fixture(scope="module")
def report(home: Path) -> tuner.TuningReport:
    return attnc.autotune(window(), *inputs(), trials=1)


def call(home: Path, length: int):
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([str(home), str(Path(root).parent), *sys.path])
    env = os.environ | {"PYTHONPATH": path}
    code = CALL.format(length=length)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def other_than(record: Record) -> dict[str, str]:
    """A choice that the compiler would not make."""
    options = {"forward": "choice", "backward": "gradient_choice"}
    return {options[record.direction]: "rows=16,keys=24"}


def test_both_directions_are_tuned_and_kept(home: Path, report: tuner.TuningReport):
    assert [s.direction for s in report.searches] == ["forward", "backward"]
    for search in report.searches:
        assert [t.reason for t in search.trials] == [""]
        assert 2 <= search.candidates <= search.considered
        assert search.record in Store(home / "cache").all()
        assert search.record.speedup >= 1  # the compiler's own choice wins if nothing is faster
        assert f"{search.record.speedup:.2f}x over the default" in str(search)
        assert str(search) in str(report)
    assert len(list((home / "cache" / "v1").iterdir())) == 1  # the default's; candidates are not kept


def test_a_new_process_uses_the_winner(home: Path, report: tuner.TuningReport):
    import dataclasses

    # whatever won on this machine today: one that shows
    store = Store(home / "cache")
    for record in report.records:
        store.put(dataclasses.replace(record, choice=other_than(record), default_seconds=1.23 * record.seconds))
    for attempt in range(2):
        loaded, tiles, why, backward = call(home, 61)
        assert tiles == [16, 24]
        assert why == f"chosen by autotuning on {report.records[0].date}, 1.23x over the default"
        assert f"tiles       {why}" in backward
        assert "16 queries x 24 keys" in backward or "16 keys x 24 queries" in backward
        if attempt:  # from the cache
            assert loaded == []
    assert attnc.validate(attnc.compile(window(), fallback="error"), *inputs(67)).ok


def test_without_results_and_with_options_the_plan_is_as_ever(home: Path, report: tuner.TuningReport):
    for options in ({"autotune": "off"}, {"autotune": False}):
        page = attnc.compile(window(), options=options).lower(*inputs()).explain()
        assert "autotuning" not in page.kernels[0].why
    page = attnc.compile(window(), options={"choice": "rows=32,keys=24"}).lower(*inputs()).explain()
    assert page.kernels[0].tiles == (32, 24)


def test_classes_that_chose_otherwise_have_plans_of_their_own(home: Path, report: tuner.TuningReport):
    import dataclasses

    store, (forward, *_) = Store(home / "cache"), report.records
    far = dataclasses.replace(forward, lengths=(12, 12), choice={"choice": "rows=32,keys=48"})
    store.put(dataclasses.replace(forward, choice={"choice": "rows=16,keys=24"}))
    store.put(far)
    try:
        compiled = attnc.compile(window(), fallback="error")
        for length, tiles in ((64, (16, 24)), (2000, (32, 48)), (65, (16, 24))):
            q, k, v = inputs(length)
            torch.testing.assert_close(compiled(q, k, v), compiled.eager(q, k, v))
            assert compiled.lower(q, k, v).explain().kernels[0].tiles == tiles
        assert len(compiled._table) == 2
    finally:
        store.remove([far])


# ---- candidates that fail

SPOILED = """
import os, signal
from attnc.compiler.autotune import bench
judge, plan = bench.Bench.judge, bench.Bench._plan
tried = []
def spoiled_judge(self, direction, choice):
    tried.append(choice)
    if len(tried) == 1 and not os.path.exists({mark!r}):
        open({mark!r}, "w").close()
        os.kill(os.getpid(), signal.SIGSEGV)
    return judge(self, direction, choice)
def spoiled_plan(self, direction, choice, *rest):
    made = plan(self, direction, choice, *rest)
    if len(tried) == 1 and choice:  # the first that the second process is asked for
        run = made.run
        made.run = lambda tensors: [x + 1e-3 for x in run(tensors)]
    return made
bench.Bench.judge, bench.Bench._plan = spoiled_judge, spoiled_plan
"""


def test_a_crash_and_wrong_numbers_are_recorded_and_cannot_win(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    code = process._START.removeprefix("import sys; sys.path[:] = {path!r}; ")
    spoiled = SPOILED.format(mark=str(tmp_path / "crashed")).replace("{", "{{").replace("}", "}}")
    monkeypatch.setattr(process, "_START", "import sys; sys.path[:] = {path!r}\n" + spoiled + code)
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    (search,) = attnc.autotune(window(), *inputs(), backward=False, trials=3).searches
    failed = sorted(t.reason for t in search.trials if t.ratio is None)
    assert failed[0] == "the process that measured it crashed (SIGSEGV)"
    assert failed[1].startswith("wrong numbers: output 0 errs by 0.001, the limit is ")
    assert len(failed) == 2
    assert search.record is not None
    assert (search.record.tried, search.record.failed) == (3, 2)
    bad = {t.choice for t in search.trials if t.ratio is None}
    assert search.record.choice.get("choice") not in bad


def test_a_worker_that_takes_too_long_is_ended_and_another_started(tmp_path: Path):
    code = "import sys, time; line = sys.stdin.readline(); 'slow' in line and time.sleep(60); print('{\"ok\": 1}')"
    worker = Worker(tmp_path / "job", command=[sys.executable, "-c", code])
    assert worker.ask(0.5, do="slow") == {"failed": "took longer than 0 s"}
    assert worker.ask(30, do="quick") == {"ok": 1}
    assert worker.ask(30, do="quick")["failed"].startswith("the process that measured it ended with status 0")
    worker.close()


# ---- ending early


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that measures nothing, and finds each candidate a little faster than the default."""

    def ask(self: Worker, limit: float, do: str, choices: tuple[object, ...] = (), **request: object):
        if do == "contest":
            return {"seconds": [2.0] + [1.0] * (len(choices) - 1)}
        return {"ratio": 0.5, "seconds": 1.0, "default_seconds": 2.0}

    monkeypatch.setattr(Worker, "ask", ask)


def test_an_interrupt_keeps_what_was_found(
    home: Path, tmp_path: Path, pretended: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))

    def watch(progress: tuner.Progress) -> None:
        if progress.tried == 1:
            raise KeyboardInterrupt

    report = attnc.autotune(window(), *inputs(), watch=watch)
    assert report.interrupted
    (search,) = report.searches
    assert len(search.trials) == 1
    assert Store(tmp_path).all() == [search.record]
    again = attnc.autotune(window(), *inputs(), backward=False, trials=1)
    assert len(again.searches[0].trials) == 2


KILLED = """
import os, signal, sys, torch, attnc
from attnc.compiler.autotune import process
from window import window
count = 0
def killed(self, limit, **request):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"ratio": 0.5, "seconds": 1.0, "default_seconds": 2.0}
process.Worker.ask = killed
attnc.autotune(window, *torch.randn(3, 1, 1, 64, 16), backward=False)
"""


def test_a_kill_loses_the_running_trial_only(
    home: Path, tmp_path: Path, pretended: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    path = os.pathsep.join([str(home), *sys.path])
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", KILLED], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    (kept,) = Store(tmp_path).all()
    assert (kept.tried, kept.speedup) == (1, 2.0)
    (search,) = attnc.autotune(window(), *inputs(), backward=False, trials=1).searches
    assert len(search.trials) == 2
    assert search.record is not None
    assert search.record.tried == 2


# ---- at the first call


def test_the_first_call_tunes_if_asked_to(home: Path, tmp_path: Path, pretended: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    done: list[tuple[str, ...]] = []
    real = tuner.tune

    def tune(subject, known=None, *, directions, **more):
        done.append(tuple(directions))
        return real(subject, known, directions=directions, minutes=1.0, trials=1)

    monkeypatch.setattr("attnc.frontends.tuning.tune", tune)
    compiled = attnc.compile(window(), options={"autotune": True})
    q, k, v = inputs()
    torch.testing.assert_close(compiled(q, k, v), compiled.eager(q, k, v))
    assert [r.direction for r in Store(tmp_path).all()] == ["forward"]
    compiled(q, k, v)
    attnc.compile(window(), options={"autotune": True})(q, k, v)
    assert done == [("forward",)]


def test_what_cannot_be_tuned_says_so(home: Path):
    def noisy(q, k, v):
        return torch.nn.functional.dropout(q @ k.mT, 0.5).softmax(-1) @ v

    with pytest.raises(attnc.TuningError, match="draws random numbers"):
        attnc.autotune(noisy, *inputs())
    with pytest.raises(attnc.TuningError, match="its options keys, rows choose already"):
        attnc.autotune(attnc.compile(window(), options={"rows": 32, "keys": 24}), *inputs())
    with pytest.raises(attnc.TuningError, match="the reference backend interprets it"):
        attnc.autotune(attnc.compile(window(), backend="reference"), *inputs())
    with pytest.warns(attnc.TuningWarning, match=r"test_tuner.py:\d+: noisy is not tuned: .* random numbers"):
        attnc.compile(noisy, fallback="silent", options={"autotune": True})(*inputs())
