"""Workers after fork, threads, copies and pickles."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

import attnc

from .compose_models import Layer, attend, close, qkv, written

ROOT = Path(__file__).parents[2]

_WORKERS = """
import os, sys, time
import torch, attnc

@attnc.compile(backend="cpu", fallback="silent")
def f(q, k, v):
    return (q @ k.mT).softmax(-1) @ v

@attnc.compile(backend="cpu", fallback="silent")
def g(q, k, v):
    return (q @ k.mT * 2).softmax(-1) @ v

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = q.clone().requires_grad_()
        worst = 0.0
        for fn in (f, g):
            out = fn(x, q, q)
            out.sum().backward()
            worst = max(worst, (out - fn.eager(q, q, q)).abs().max().item())
        return worst

q = torch.randn(2, 4, 130, 16)
torch.set_num_threads(2)
(torch.randn(512, 512) @ torch.randn(512, 512)).exp()  # the parent's OpenMP threads
if sys.argv[1] == "warm":
    f(q, q, q)
for batch in torch.utils.data.DataLoader(Data(), num_workers=2, multiprocessing_context="fork", timeout=100):
    assert batch.max() < 1e-4, batch
child = os.fork()  # with the parent's number of threads, unlike a worker
if child == 0:
    f(q, q, q)
    g(q, q, q)
    os._exit(0)
until = time.time() + 60
while time.time() < until:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        sys.exit(status)
    time.sleep(0.02)
os.kill(child, 9)
sys.exit("a forked child hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("parent", ["cold", "warm"])
def test_forked_workers(parent: str, tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(textwrap.dedent(_WORKERS))
    env = os.environ | {"ATTNC_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, script, parent], env=env, timeout=300, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_threads_race_for_the_first_call() -> None:
    f, failures = attnc.compile(written, backend="cpu", fallback="silent"), []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        try:
            x = qkv(seed + 5, grad=True)
            start.wait()
            for _ in range(5):
                out = f(*x)
                close(out, written(*x))
                close(
                    torch.autograd.grad(out.square().sum(), x), torch.autograd.grad(written(*x).square().sum(), x), 1e-3
                )
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert len(f._table) == 1


class Holder(torch.nn.Module):
    """Keeps compiled functions as attributes: a decorated one, one made of a plain function, and a bound method."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()
        self.decorated = attend
        self.made = attnc.compile(written, backend="cpu", fallback="silent", options={"cache": "on"})
        self.method = self.layer.attend

    def forward(self, q, k, v):
        return self.decorated(q, k, v) + self.made(q, k, v) + self.method(q, k, v)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how: str) -> None:
    holder, x = Holder(), qkv()
    again = copy.deepcopy(holder) if how == "deepcopy" else pickle.loads(pickle.dumps(holder))
    close(again(*x), holder(*x))
    assert again.made.options == {"cache": "on"}
    assert again.made.backend == "cpu"
    assert again.method.instance is again.layer
    with torch.no_grad():
        again.layer.bias.add_(1)
    assert (again(*x) - holder(*x)).abs().max() > 1e-3


def test_a_local_function_cannot_be_pickled() -> None:
    f = attnc.compile(lambda q, k, v: (q @ k.mT).softmax(-1) @ v)
    with pytest.raises(TypeError, match="define it in a module"):
        pickle.dumps(f)
