"""The printed text: readable, deterministic, named after the program, runnable by itself."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attnc
from attnc.backends import get_backend
from attnc.backends.triton.facts import divisible, fill_of, nonnegative
from attnc.backends.triton.scalars import Scalars, Text
from attnc.backends.triton.source import Names
from attnc.ir.expr import parse, parse_lambda

from .helpers import Case


def source(case):
    return get_backend("triton").compile(case.kernel(), target="sm_90").stages["triton"]


def printed(text, **names):
    env = {n: Text(n, axes=tuple(a)) for n, a in {"i": "i", "j": "j", "N": "", **names}.items()}
    called = set()
    scalars = Scalars(env, ("i", "j"), "tl.float32", lambda load, s: Text("loaded", kind="float"), called.add)
    return scalars.text(parse(text)).code, called


@pytest.mark.parametrize(
    "text, code",
    [
        ("i // 4 == j // 4", "(i // 4)[:, None] == (j // 4)[None, :]"),
        ("i - j <= 3 and j < N", "(i[:, None] - j[None, :] <= 3) & (j < N)[None, :]"),
        ("(i - j) // 8", "(i[:, None] - j[None, :]) >> 3"),
        ("(i - j) % 8", "(i[:, None] - j[None, :]) & 7"),
        ("(i - j) % 3", "floor_mod(i[:, None] - j[None, :], 3)"),
        ("(i + j) % 3", "(i[:, None] + j[None, :]) % 3"),
        ("not (i - j) // 3 == 1 or j < 2", "(floor_div(i[:, None] - j[None, :], 3) != 1) | (j < 2)[None, :]"),
        ("i * 0.5", "i.to(tl.float32) * 0.5"),
        ("where(i < j, 1, 2.5)", "tl.where(i[:, None] < j[None, :], 1.0, 2.5)"),
        ("pow(2.0, -i)", "tl.exp2((-i).to(tl.float32))"),
        ("exp2(-inf + i)", 'tl.exp2(float("-inf") + i.to(tl.float32))'),
    ],
)
def test_expressions(text, code):
    assert printed(text)[0] == code


def test_helpers_are_noted():
    assert printed("(i - j) % 3")[1] == {"floor_mod"}


def test_facts():
    assert nonnegative(parse("N * 3 + i % 5"))
    assert not nonnegative(parse("i - j"))
    assert nonnegative(parse("max(i - j, 0) // 4"))
    assert divisible(parse("t * 64 + 128"), 64)
    assert not divisible(parse("min(N, 64)"), 64)
    assert fill_of(parse_lambda("lambda s, m: exp2(s - m)").body, {"s": float("-inf"), "m": "finite"}) == 0.0
    assert fill_of(parse_lambda("lambda s: exp2(s)").body, {"s": "any"}) == "any"


def test_names():
    names = Names()
    given = [names.fresh(n) for n in ("x", "x", "lambda", "tl", "1a", "a-b")]
    assert given == ["x", "x_1", "lambda_1", "tl_1", "t1a", "a_b"]


def test_text_is_readable():
    text = source(Case(mask="j <= i", dtype="bf16"))
    for part in (
        "Notation", "# user.py:3", "tl.static_assert(q.dtype.element_ty == tl.bfloat16", "def launch(q, k, v, o, lse",
        "b.to(tl.int64) * q_s0", 'if __name__ == "__main__":', "alpha    what l and acc are multiplied by when m grows",
    ):  # fmt: skip
        assert part in text
    two_loops = source(Case())
    assert two_loops.count("key = tl.load(") == 2
    assert "key_1" not in two_loops  # names of a loop are free again behind it
    assert max(len(line) for line in text.partition("TILE")[0].splitlines()) <= 120
    assert source(Case(mask="j <= i", dtype="bf16")) == text
    compile(text, "kernel.py", "exec")


def test_whole_steps_of_full_loops_have_no_mask():
    text = source(Case())
    whole = text[text.index("# whole steps") : text.index("# the rest")]
    assert "mask=" not in whole
    assert "where(j" not in whole
    assert "-inf" not in whole.replace('== float("-inf"), 0.0', "")
    rest = text[text.index("# the rest") :]
    assert "(j < M)[None, :]" in rest


def test_masks_only_where_an_axis_may_end():
    blocks = Case(
        over="b < B, h < H, g < N // 128, i < 128",
        query="b, h, g * 128 + i, d", key="b, h, g * 128 + j, d", value="b, h, g * 128 + j, e",
        out="b, h, g * 128 + i, e", lse="b, h, g * 128 + i", keys="128",
    )  # fmt: skip
    assert "mask=" not in source(blocks)


def test_float32_keeps_its_precision():
    assert source(Case()).count('input_precision="ieee"') == 4
    assert "ieee" not in source(Case(dtype="bf16"))


@pytest.fixture
def alone(tmp_path):
    """Runs a file as a process that finds attnc."""
    root = tmp_path / "site"
    root.mkdir()
    (root / "attnc").symlink_to(Path(attnc.__file__).parent)

    def run(text):
        path = tmp_path / "kernel.py"
        path.write_text(text)
        env = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=env, check=False)

    return run


def test_runs_by_itself(alone):
    done = alone(source(Case(mask="j <= i", dtype="bf16")))
    assert done.returncode == 0, done.stderr
    assert "checksum" in done.stdout
    assert "nan" not in done.stdout
    assert done.stdout.count("right") == 2


def test_a_wrong_edit_shows(tmp_path, capsys):
    path = tmp_path / "kernel.py"
    path.write_text(source(Case(mask="j <= i")).replace("tl.exp2(", "0.9 * tl.exp2(", 1))
    with pytest.raises(SystemExit, match="something else than its tile program"):
        runpy.run_path(str(path), run_name="__main__")
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "direction"),
    [("block", "forward"), ("hierarchical", "forward"), ("dilated", "backward"), ("hierarchical", "backward")],
)
def test_a_dump_runs_by_itself(name, direction, tmp_path, capsys):
    """All kernels of a function, one after the other in one file."""
    quickstart = runpy.run_path(str(Path(attnc.__file__).parent / "examples" / "quickstart.py"), run_name="quickstart")
    q = torch.zeros(1, 2, 1024, 16)
    lowered = quickstart[name].lower(q, q, q)
    path = tmp_path / "kernel.py"
    text = (lowered.backward() if direction == "backward" else lowered).ir("triton")
    path.write_text(text)
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("right") == said.count("checksum") >= (2 if direction == "forward" else 4)
    assert text.count("@triton.jit") >= (1 if direction == "forward" else 3)
