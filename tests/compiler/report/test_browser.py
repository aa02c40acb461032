"""The page in headless Chromium, driven by a script that is put at its end."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .test_page import dilated, hierarchical, html_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

# Collects errors from before the page's own script on; what a test finds out is left in the page.
EARLY = """<script>
window.problems = [];
for (const level of ["error", "warn"]) console[level] = (...x) => problems.push(x.join(" "));
addEventListener("error", (e) => problems.push(e.message));
</script>"""
LATE = """<pre id="found"></pre><script>
const press = (where, key) =>
  where.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const found = (() => { %s })();
document.getElementById("found").textContent = JSON.stringify({ ...found, problems });
</script>"""

SCRIPT = (Path(__file__).parent / "drive.js").read_text()


def _run(text: str, folder: Path, size: str) -> dict[str, Any]:
    assert BROWSER is not None
    path = folder / "report.html"
    text = text.replace("<head>", f"<head>{EARLY}", 1).replace("</body>", LATE % SCRIPT + "</body>")
    path.write_text(text)
    options = [*OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size}", "--dump-dom"]
    home = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [BROWSER, *options, path.as_uri()], capture_output=True, text=True, check=False, timeout=120, env=home
    )
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    assert match[1], "the script did not finish"
    return json.loads(html.unescape(match[1]))


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.parametrize("fn, size", [(dilated, "1280,800"), (hierarchical, "390,844")], ids=["laptop", "phone"])
def test_the_page_works(fn: Any, size: str, tmp_path: Path) -> None:
    found = _run(html_of(fn, 96), tmp_path, size)
    assert found["problems"] == []
    assert found["code"] > 300
    assert found["none"] == 0
    assert found["whole"] >= 1048576 // 4 > 1000 > found["close"]  # of four parts, one is shown
    assert found["drawn"] == ["partial", "empty"]
    assert found["theme"] == "rgb(255, 255, 255)" != found["dark"]
    assert found["wide"] <= 0
    assert found["unnamed"] == 0
    if fn is dilated:
        assert any("tile.mask" in x for x in found["forth"])
        assert any("# the product's line" in x for x in found["back"])
        assert not any("# the mask's line" in x for x in found["back"])
