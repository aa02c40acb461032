"""The documentation and the code name the same things."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from attnc.compiler.cli import app
from attnc.compiler.passes import PASSES
from attnc.compiler.settings import VARIABLES

from .docs import blocks, run_console, run_python

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_setting_is_documented() -> None:
    rows = re.findall(r"^\| `(ATTNC_\w+)`", (ROOT / "docs/environment.md").read_text(), re.MULTILINE)
    assert rows == [v.name for v in VARIABLES]


def test_every_pass_is_documented() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/ir.md").read_text(), re.MULTILINE)
    assert rows == list(PASSES)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    links = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    missing = [t for t in links if not (page.parent / t).exists()]
    named = re.findall(r"`((?:frontends|ir|compiler|backends|examples|benchmarks|tests|docs)/[\w/.]*)`", text)
    missing += [t for t in named if not (ROOT / t).exists()]
    assert not missing


def test_every_command_is_in_the_readme() -> None:
    commands = {c.name or c.callback.__name__ for c in app.app.registered_commands if c.callback}
    shell = "".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    named = set(re.findall(r"\battnc ([a-z]+) ", shell))
    assert named == commands


@pytest.mark.parametrize("script", ["cpu_table.py", "lra_page.py"])
def test_the_measured_table_is_what_was_measured(script: str) -> None:
    script = str(ROOT / "benchmarks" / script)
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


SNIPPETS = [p for p in PAGES if any(b.language in ("python", "console") for b in blocks(p))]


@pytest.mark.parametrize("page", SNIPPETS, ids=lambda p: p.name)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if page.name == "autotuning.md":  # what it finds is not for the other tests
        monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command line replaces it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run_python(page) + run_console(page)


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(named) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def test_links_to_parts_of_pages_exist() -> None:
    wrong = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", page.read_text()):
            heads = re.findall(r"^#+ (.*)$", (page.parent / target if target else page).read_text(), re.MULTILINE)
            if anchor not in {re.sub(r"[^\w\s-]", "", h).strip().lower().replace(" ", "-") for h in heads}:
                wrong.append(f"{page.name}: {target}#{anchor}")
    assert not wrong


def test_the_pages_build(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert (tmp_path / "site" / "getting-started.html").exists()
