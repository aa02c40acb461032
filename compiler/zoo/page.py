"""docs/zoo.md: every system with its picture, what attnc makes of it, and the times that were measured.

The text follows from the files of the zoo and from ``benchmarks/results/zoo.json``, which ``attnc zoo --json``
writes.  What can change from run to run stands in that file alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

from .judge import Facts, computed_fraction, live_fraction
from .systems import System

TARGET = "cpu-avx512"  # whose tiles the page tells of, wherever it is written

INTRODUCTION = """\
# The zoo

Attention systems from the literature, each written in `examples/zoo/` as its authors would write it in PyTorch, and
compiled without knowing its name. `attnc zoo` judges them all; `attnc zoo swin` judges one, and so does
`python examples/zoo/swin.py`. This page is written by `attnc zoo --docs docs/zoo.md`.

A picture shows which keys (to the right) the queries (down) of a small input see, in the order in which tokens lie in
memory; colours tell the sources of one softmax apart, and grey pairs depend on data. *Live* and *computed* are shares
of all pairs of the published sizes, with the tiles that an AVX-512 processor gets.
"""


def page(systems: Sequence[tuple[System, Sequence[Facts]]], measured: Mapping[str, Any]) -> str:
    """The whole page."""
    whole = [s for s, found in systems if all(f.fused for f in found)]
    parts = [INTRODUCTION, f"{len(systems)} systems, {len(whole)} of them fused forward and backward.\n"]
    parts += [t + "\n" for t in [times(systems, measured)] if t]
    rows = [
        "| system | pattern | fused | live | computed | faster than eager | than SDPA |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    rows += [table_row(s, found, measured) for s, found in systems]
    parts += ["\n".join(rows) + "\n", *(section(s, found) for s, found in systems)]
    return "\n".join(parts)


def times(systems: Sequence[tuple[System, Sequence[Facts]]], measured: Mapping[str, Any]) -> str:
    """Which machine, and how much faster the fused systems are there; empty where nothing was measured."""
    found = [r["eager"] for s, facts in systems if all(f.fused for f in facts) and (r := ratios(s, measured))]
    if not found:
        return ""
    machine = measured["machine"]
    return (
        f"Times are those of the forward pass at published sizes in float32 on {machine['processor']}, "
        f"{measured['threads']} threads.\nThe {len(found)} fused systems are {geometric_mean(found):.1f}x faster than "
        f"eager in the geometric mean, and {min(found):.2g}x at least."
    )


def ratios(system: System, measured: Mapping[str, Any]) -> Mapping[str, float]:
    """How much faster a system was than each rival when it was last measured."""
    found: Mapping[str, float] = measured.get("systems", {}).get(system.name, {}).get("ratio", {})
    return found


def table_row(system: System, found: Sequence[Facts], measured: Mapping[str, Any]) -> str:
    """One row of the table; its first five columns do not depend on the machine."""
    speed = ratios(system, measured)
    cells = [
        f"[{system.title}](#{anchor(system)})",
        system.pattern,
        "yes" if all(f.fused for f in found) else "in part",
    ]
    cells += [percent(live_fraction(found)), percent(computed_fraction(found))]
    cells += [f"{speed[k]:.1f}x" if k in speed else "" for k in ("eager", "sdpa")]
    return f"| {' | '.join(cells)} |"


def section(system: System, found: Sequence[Facts]) -> str:
    """What is said about one system below the table."""
    lines = [f"## {system.title}", "", f"![{system.title}: who sees whom](zoo/{system.name}.png)", ""]
    lines += [system.sentence, "", f"{system.source} File: `examples/zoo/{system.path.name}`.", ""]
    lines += [system.notes, ""] if system.notes else []
    lines += [f"Stays with PyTorch: {system.eager}", ""] if system.eager else []
    for f in found:
        kernels = f"{f.kernels} kernel{'s' * (f.kernels != 1)}"
        words = "; ".join(f"*{w}*" for w in f.patterns)
        lines.append(f"- `{f.function}`: {kernels}" + (f": {words}" if words else ""))
    return "\n".join([*lines, ""])


def anchor(system: System) -> str:
    """The name that Markdown gives the heading of a system."""
    kept = "".join(c for c in system.title.lower() if c.isalnum() or c in " -_")
    return kept.strip().replace(" ", "-")


def percent(share: float | None) -> str:
    """A share for readers; None where it depends on data."""
    return "by data" if share is None else f"{100 * share:.3g} %"
