"""The import rule: which folder may import which, read from the sources and proved in fresh processes."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Folder -> what of ours it may import; the longest matching folder decides.
OURS = {
    "ir": ["ir"],
    "compiler": ["ir", "compiler", "backends.api", "backends.forking", "backends.host"],  # backends: by name, lazily
    "compiler/analysis": ["ir", "compiler.analysis"],
    "compiler/passes": ["ir", "compiler.analysis", "compiler.passes"],
    "backends": ["ir", "backends"],
    "backends/mlir_cpu": ["ir", "backends.api", "backends.forking", "backends.host", "backends.mlir_cpu"],
    "backends/reference": ["ir", "backends.api", "backends.host", "backends.reference"],
    "backends/triton": ["ir", "backends.api", "backends.host", "backends.triton"],
    # the driver and the autotuner, and the types that they give and raise
    "frontends": [
        "ir",
        "compiler.autotune",
        "compiler.driver",
        "compiler.errors",
        "compiler.lowered",
        "compiler.oracle",
        "compiler.plan",
        "frontends",
    ],
}
# Package -> the only folders that may import it.
THEIRS = {
    "attnc": [],  # imports inside the package are relative; a linter would take those for this in a folder of that name
    "torch_mlir": ["backends/mlir_cpu"],
    "triton": ["backends/triton"],
    "islpy": ["compiler/analysis"],
    "optuna": ["compiler/autotune/study.py"],
    "typer": ["compiler/cli"],
    "rich": ["compiler/cli"],
}
# Nothing here may import torch, lazily or not: `attnc opt` works without it.
NO_TORCH = ["ir/expr.py", "ir/attn.py", "ir/tile.py", "ir/text.py", "compiler/passes", "compiler/analysis"]

SOURCES = sorted(p for folder in ("ir", "compiler", "backends", "frontends") for p in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports; ours start with a dot."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            module = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            yield from ((node.lineno, f".{module}.{alias.name}".replace("..", ".")) for alias in node.names)


def within(name: str, prefixes: list[str]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def rule_of(path: Path) -> list[str]:
    folder = path.relative_to(ROOT).parent.as_posix()
    return OURS[max((f for f in OURS if f"{folder}/".startswith(f"{f}/")), key=len)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_follow_the_rule(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    wrong = []
    for line, name in imports(path):
        if name.startswith("."):
            if not within(name[1:], rule_of(path)):
                wrong.append(f"{where}:{line}: imports {name[1:]}; allowed: {', '.join(rule_of(path))}")
            continue
        top = name.partition(".")[0]
        assert top != "attnc", f"{where}:{line}: imports inside the package are relative"
        if top in THEIRS and not any(where.startswith(f) for f in THEIRS[top]):
            wrong.append(f"{where}:{line}: imports {top}; only {', '.join(THEIRS[top])} may")
        if top == "torch" and any(where.startswith(f) for f in NO_TORCH):
            wrong.append(f"{where}:{line}: imports torch")
    assert not wrong, "\n".join(wrong)


def test_every_package_is_listed() -> None:
    folders = {p.parent for p in SOURCES if p.name == "__init__.py"} | {ROOT}
    found = {".".join(("attnc", *f.relative_to(ROOT).parts)) for f in folders}
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_folder_is_a_package() -> None:
    bare = {p.parent for p in SOURCES} - {p.parent for p in SOURCES if p.name == "__init__.py"}
    assert not bare


# ---- fresh processes -----------------------------------------------------------------------------------

BLOCK = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"  # importing any of them raises ImportError


def run(code: str, *args: str, blocked: tuple[str, ...] = ()) -> str:
    command = [sys.executable, "-W", "ignore", "-c", BLOCK.format(names=blocked) + code, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_attnc_is_light() -> None:
    heavy = ("torch", "xdsl", "torch_mlir", "triton", "islpy", "sympy", "networkx", "optuna", "typer", "rich")
    loaded = run(f"import attnc; print([m for m in {heavy!r} if m in sys.modules])")
    assert loaded.strip() == "[]"


MODULE = """
attn.func @f(%q: !attn.tensor<"N, 64", f32>, %k: !attn.tensor<"M, 64", f32>, %v: !attn.tensor<"M, 64", f32>) {
  %o, %lse = attn.attend over "i < N"
    query %q "i, d" width 64
    source "j < M" key %k "j, d" value %v "j, e" mask "j <= i" score "lambda dot: dot * 0.125"
    normaliser softmax
    out "i, e" width 64 lse "i"
    : (!attn.tensor<"N, 64", f32>, !attn.tensor<"M, 64", f32>, !attn.tensor<"M, 64", f32>)
    -> (!attn.tensor<"N, 64", f32>, !attn.tensor<"N", f32>)
  attn.return %o : !attn.tensor<"N, 64", f32>
}
"""


@pytest.mark.parametrize("name", ["simplify-masks", "block-diagonal", "dilation"])
def test_opt_needs_no_torch(name: str, tmp_path: Path) -> None:
    source = tmp_path / "in.mlir"
    source.write_text(MODULE)
    code = "sys.argv[0] = 'attnc'; from attnc.compiler.cli.app import main; main()"
    out = run(code, "opt", str(source), "-p", name, blocked=("torch", "torch_mlir", "triton"))
    assert "attn.attend" in out


FIRST_CALL = """
import torch, attnc
@attnc.compile(backend=sys.argv[1], fallback="error")
def causal(q, k, v):
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    return (q @ k.mT).masked_fill(j > i, -torch.inf).softmax(-1) @ v
causal(*torch.randn(3, 1, 2, 40, 16))
"""


def first_call(backend: str, tmp_path: Path, blocked: tuple[str, ...]) -> None:
    # A string, not a file: the tracer must not need the source either.
    code = f"import os; os.environ['ATTNC_CACHE_DIR'] = {str(tmp_path)!r}\n" + FIRST_CALL
    run(code, backend, blocked=blocked)


def test_cpu_needs_no_triton(tmp_path: Path) -> None:
    first_call("cpu", tmp_path, blocked=("triton",))


def test_reference_needs_only_torch(tmp_path: Path) -> None:
    first_call("reference", tmp_path, blocked=("triton", "torch_mlir"))


def test_triton_needs_no_torch_mlir() -> None:
    run("from attnc.backends.triton import backend; print(backend().fingerprint())", blocked=("torch_mlir",))
