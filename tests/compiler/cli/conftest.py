"""Running ``attnc`` in this process, and files for it to look at."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from attnc.compiler.cli.app import main

WINDOW = """
import torch
import attnc

CALLS = []


def window(q, k, v):
    i = torch.arange(q.shape[-2])[:, None]
    j = torch.arange(k.shape[-2])[None, :]
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill((i - j).abs() > 40, -torch.inf).softmax(-1) @ v


compiled = attnc.compile(window)


def dilated(q, k, v, reach=4):
    i = torch.arange(q.shape[-2])[:, None]
    j = torch.arange(k.shape[-2])[None, :]
    live = ((i - j).abs() <= 8 * reach) & ((i - j) % 8 == 0)
    return (q @ k.mT).masked_fill(~live, -torch.inf).softmax(-1) @ v


def biased(q, k, v, bias):
    return (q @ k.mT + bias).softmax(-1) @ v


class Layer:
    def forward(self, q, k, v):
        return window(q, k, v)
"""

ATTN = """
attn.func @f(%q: !attn.tensor<"H, N, 16", f32>, %k: !attn.tensor<"H, M, 16", f32>, %v: !attn.tensor<"H, M, 16", f32>) {
  %o, %lse = attn.attend over "h < H, i < N"
    query %q "h, i, d" width 16
    source "j < M" key %k "h, j, d" value %v "h, j, e" mask "abs(i - j) <= 40" score "lambda dot: dot * 0.25"
    normaliser softmax
    out "h, i, e" width 16 lse "h, i"
    : (!attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, M, 16", f32>, !attn.tensor<"H, M, 16", f32>)
    -> (!attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, N", f32>)
  attn.return %o : !attn.tensor<"H, N, 16", f32>
}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


Attnc = Callable[..., Done]


@pytest.fixture
def attnc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Attnc:
    """Runs a command line and gives its status and output."""
    import warnings

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str | os.PathLike[str]) -> Done:
        with pytest.raises(SystemExit) as end:
            main([os.fspath(a) for a in args])
        out, err = capsys.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def window_py(tmp_path: Path) -> Path:
    path = tmp_path / "window.py"
    path.write_text(WINDOW)
    return path


@pytest.fixture
def attn_mlir(tmp_path: Path) -> Path:
    path = tmp_path / "in.mlir"
    path.write_text(ATTN)
    return path
