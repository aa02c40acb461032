"""A worker process, and what becomes of it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# As the parent's is, so that the same attnc is found however it came to be there.
_START = "import sys; sys.path[:] = {path!r}; from {package}.worker import main; main({job!r})"


class Worker:
    """Starts when first asked, and anew after a crash."""

    def __init__(self, job: Path, *, command: Sequence[str] | None = None):
        code = _START.format(path=sys.path, package=__package__, job=str(job))
        self.command = list(command or [sys.executable, "-c", code])
        self.errors = job.parent / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, limit: float, **request: Any) -> dict[str, Any]:
        """The answer to a request; ``{"failed": why}`` if the worker crashed or took longer than ``limit`` seconds."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = self._line(process, limit)
        except BrokenPipeError:
            line = b""
        except BaseException:  # an interrupt: the answer would be taken for that to the next request
            self.close()
            raise
        if line is None:
            self.close()
            return {"failed": f"took longer than {limit:.0f} s"}
        try:
            return json.loads(line)
        except ValueError:  # the end, perhaps in the middle of a line
            return {"failed": self._ended(process)}

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            # in a session of its own: an interrupt from the keyboard is for the parent, who ends the worker
            with open(self.errors, "wb") as errors:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
        return self._process

    def _line(self, process: subprocess.Popen[bytes], limit: float) -> bytes | None:
        """A line of the answer, an empty one at its end; None after ``limit`` seconds."""
        assert process.stdout is not None
        end = time.monotonic() + limit
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return line
            line += part
        return line

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        self._process = None
        process.communicate()
        status = process.returncode
        if status < 0:
            return f"the process that measured it crashed ({signal.Signals(-status).name})"
        lines = self.errors.read_text(errors="replace").strip().splitlines() or [""]
        return f"the process that measured it ended with status {status}: {lines[-1]}"
