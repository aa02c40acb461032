"""Kill processes that compile, at random instants, and damage what they left: no number may ever be wrong.

    python tests/stress/cache_kill.py --kills 100

Several processes compile and load the same few functions, forward and backward, through one cache folder.  At
random instants one of them is killed (SIGKILL) and another takes its place; between kills, files of the cache are cut,
changed in a bit, swapped, emptied, replaced by folders, made unreadable or given to everybody.  At the end a process
calls every function again.  Workers report through their exit status: 0 done, 1 an exception, 3 a wrong number.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

KINDS = 4
WRONG = 3


def damage(root: Path, choose: random.Random) -> str | None:
    """Do one of the things that disks, users and other programs do; its name."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    if not files:
        return None
    path, other = choose.choice(files), choose.choice(files)
    what = choose.choice(["cut", "bit", "swapped", "emptied", "folder", "foreign", "mode", "link", "removed"])
    try:
        data = path.read_bytes()
        match what:
            case "cut":
                os.truncate(path, choose.randrange(len(data) + 1))
            case "bit":
                at = choose.randrange(max(len(data), 1))
                flipped = bytes(b ^ 1 << choose.randrange(8) for b in data[at : at + 1])
                path.write_bytes(data[:at] + flipped + data[at + 1 :])
            case "swapped":
                shutil.copy(other, path)
            case "emptied":
                path.write_bytes(b"")
            case "folder":
                path.unlink()
                path.mkdir()
            case "foreign":
                path.write_bytes(choose.randbytes(2000))
            case "mode":
                path.chmod(choose.choice([0o000, 0o666]))
            case "link":
                path.unlink()
                path.symlink_to(choose.choice(["/dev/zero", "/nowhere", path.name, other]))
            case "removed":
                shutil.rmtree(path.parent)
    except OSError:  # a worker was faster
        return None
    return what


def work(seed: int, calls: int) -> int:
    """What a worker does; its exit status."""
    from tests.stress.work import WrongNumberError, call_at_random

    try:
        call_at_random(seed, calls, KINDS)
    except WrongNumberError:
        traceback.print_exc()
        return WRONG
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def spawn(seed: int, calls: int) -> int:
    """Fork a worker: torch is imported already, so that it compiles from its first instant."""
    child = os.fork()
    if child == 0:
        os._exit(work(seed, calls))
    return child


def run(kills: int, workers: int, seed: int, folder: Path, show: bool = True) -> Counter[str]:
    """Kill ``kills`` workers; counts of what happened: kills, done, failed, wrong, each kind of damage."""
    os.environ["ATTNC_CACHE_DIR"] = str(folder)
    choose = random.Random(seed)
    counts: Counter[str] = Counter()
    alive: set[int] = set()
    fresh = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))

    def ended(status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        counts[{0: "done", WRONG: "wrong", -signal.SIGKILL: "killed"}.get(code, "failed")] += 1

    while counts["killed"] < kills:
        while len(alive) < workers:
            alive.add(spawn(next(fresh), calls=6))
        time.sleep(choose.random() * 0.25)
        if choose.random() < 0.5 and (what := damage(folder, choose)):
            counts[f"file {what}"] += 1
        if choose.random() < 0.7:
            os.kill(choose.choice(sorted(alive)), signal.SIGKILL)
        for child in sorted(alive):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                alive.discard(child)
                ended(status)
        if show and sys.stderr.isatty():
            print(f"\r{counts['killed']}/{kills} killed, {counts['done']} done", end="", file=sys.stderr)
    for child in alive:
        ended(os.waitpid(child, 0)[1])
    ended(os.waitpid(spawn(next(fresh), calls=4 * KINDS), 0)[1])
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    import tests.stress.work  # noqa: F401  (imported once, before workers are forked)

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = run(args.kills, args.workers, args.seed, Path(folder))
    print(", ".join(f"{what}: {n}" for what, n in sorted(counts.items())))
    bad = counts["wrong"] + counts["failed"]
    print(f"{'ok' if not bad else 'FAILED'}: {args.kills} kills in {time.monotonic() - start:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
