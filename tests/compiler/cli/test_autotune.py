"""``attnc autotune``: a search from the command line, two at once, and the results that are there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnc.compiler.autotune import process
from attnc.compiler.autotune.shipping import read_tuned

from .conftest import Attnc

SHAPE = ("--shape", "B=1,H=1,N=64,D=16", "--no-backward")


# A worker that measures nothing: what it does is tested where it belongs.
PRETENDED = """
from attnc.compiler.autotune import process
def ask(self, limit, do, choices=(), **request):
    if do == "contest":
        return {"seconds": [2.0] + [1.0] * (len(choices) - 1)}
    return {"ratio": 0.5, "seconds": 1.0, "default_seconds": 2.0}
process.Worker.ask = ask
"""


@pytest.fixture(autouse=True)
def own_cache_and_no_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(process.Worker, "ask", process.Worker.ask)  # back again afterwards
    exec(PRETENDED, {})


def test_tune_list_show_export_clear(attnc: Attnc, window_py: Path, tmp_path: Path):
    target, file = f"{window_py}:window", tmp_path / "tuned.json"
    done = attnc("autotune", target, *SHAPE, "--trials", "1", "--export", file)
    assert done.status == 0, done.err
    assert done.out.startswith("window\n  forward: rows=")
    assert "2.00x over the default" in done.out
    assert "1 of " in done.out
    (record,) = read_tuned(file)
    listed = attnc("autotune", "--list").out
    assert record.short in listed
    assert "window" in listed
    shown = attnc("autotune", "--show", record.short).out
    assert record.pattern in shown
    assert "1 configurations tried" in shown
    assert attnc("autotune", f"{window_py}:dilated", "--list").out.startswith("no tuned results")
    assert attnc("autotune", f"{window_py}:dilated", "--clear").out == "0 results forgotten\n"
    all_of_them = tmp_path / "all.json"
    assert attnc("autotune", "--export", all_of_them).status == 0
    assert read_tuned(all_of_them) == [record]
    assert attnc("autotune", "--clear").out == "1 results forgotten\n"
    assert attnc("autotune", "--list").out.startswith("no tuned results")


def test_two_processes_tune_one_study(window_py: Path, tmp_path: Path):
    code = PRETENDED + "from attnc.compiler.cli.app import main; main()"
    command = [sys.executable, "-c", code, "autotune", f"{window_py}:window", *SHAPE, "--trials", "2"]
    command += ["--storage", f"sqlite:///{tmp_path / 'shared.db'}"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for each in both:
        _, err = each.communicate()
        assert each.returncode == 0, err
    import optuna

    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path / 'shared.db'}")
    trials = optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{tmp_path / 'shared.db'}").trials
    finished = [tuple(sorted(t.params.items())) for t in trials if t.state.name == "COMPLETE"]
    assert len(finished) == len(set(finished)) == 4
    assert not [t for t in trials if t.state.name == "RUNNING"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "name a function to tune"),
        (("--list", "--clear"), "give one of --list, --show and --clear"),
        (("--show", "nothing"), "0 results have a name that starts so"),
        (("--export", "x.json"), "no tuned results to export"),
    ],
)
def test_wrong_usage(attnc: Attnc, arguments: tuple[str, ...], message: str):
    done = attnc("autotune", *arguments)
    assert done.status in (1, 2)
    assert message in done.err


def test_a_device_that_is_not_here_and_a_storage_that_cannot_be_opened(attnc: Attnc, window_py: Path):
    import torch

    if not torch.cuda.is_available():
        done = attnc("autotune", f"{window_py}:window", *SHAPE, "--device", "cuda")
        assert (done.status, "PyTorch sees no GPU here" in done.err) == (2, True)
    done = attnc("autotune", f"{window_py}:window", *SHAPE, "--storage", "nosuch://here")
    assert (done.status, "the storage nosuch://here" in done.err) == (1, True)


def test_lengths_too_large_for_float64_are_checked_at_smaller_ones():
    from attnc.compiler.cli.autotune import _smaller

    assert _smaller("B=1,H=8,N=1024,D=64") is None
    assert _smaller("B=1,H=8,N=65536,D=64") == "B=1,H=8,N=1024,D=64"
    assert _smaller("B=1,H=8,N=1,N_k=1000000,D=64") is None
    assert _smaller(None) is None
