"""A minute of what the scripts of this folder do for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "command",
    [("cache_kill.py", "--kills", "8", "--workers", "2"), ("threads.py", "--only", "threads", "signals")],
    ids=["cache_kill", "threads"],
)
def test_script(command: tuple[str, ...]) -> None:
    """In a process of its own: it forks, kills and sends signals."""
    done = subprocess.run(
        [sys.executable, HERE / command[0], *command[1:]], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
