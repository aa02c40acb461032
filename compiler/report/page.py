"""The page of ``attnc inspect``: everything that is known of a function in one file of HTML that loads nothing."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import ModuleOp

from ...ir import attn, tile
from ...ir.errors import AttncError
from ...ir.expr import free_vars
from ..explain_text import unit
from . import listing, maps, tables
from .javascript import PRELUDE
from .listing import Listing
from .sources import excerpts

if TYPE_CHECKING:
    from ..explain import Explanation
    from ..lowered import Lowered

FOLDER = Path(__file__).parent
PRESETS = (1024, 16384, 262144, 1048576)


@dataclass
class _Stage:
    name: str
    text: Listing
    python: bool = False
    code: bool = False


@dataclass
class _Places:
    """Numbers for the user's lines."""

    numbers: dict[str, int] = field(default_factory=dict)

    def of(self, places: Sequence[str]) -> list[int]:
        return [self.numbers.setdefault(p, len(self.numbers)) for p in places]


def page(lowered: Lowered, *, backward: bool = False) -> str:
    """The HTML of a lowered function; with ``backward`` the program shown is that of its gradients."""
    explanation = lowered.explain()
    program = lowered.backward() if backward else lowered
    modules = program.with_lines
    places = _Places()
    stages = _stages(program, modules)
    data = {
        "stages": _encoded(stages, places),
        "source": excerpts(lowered.files, places.numbers),
        "first": _first(stages),
        "sizes": dict(explanation.sizes),
        "long": _long(lowered),
        "presets": sorted({*PRESETS, *(explanation.sizes[n] for n in _long(lowered))}),
    }
    verdict = "fused" if explanation.fused else "not fused"
    title = f"{explanation.name}{', gradient' if backward else ''}"
    sizes = ", ".join(f"{k} = {v:,}" for k, v in explanation.sizes.items())
    return _fill(
        (FOLDER / "page.html").read_text(),
        {
            "title": html.escape(f"{title}: attnc inspect"),
            "name": html.escape(title),
            "verdict": verdict,
            "verdict_class": "yes" if explanation.fused else "no",
            "facts": html.escape(f"{explanation.backend} ({explanation.target}), {explanation.dtype}; {sizes}"),
            "words": _words(explanation),
            "cost": tables.cost(explanation, backward),
            "roofline": tables.roofline(explanation),
            "roofline_words": html.escape(_limits(explanation)),
            "explain": html.escape(str(explanation) + (f"\n\n{explanation.backward}" if backward else "")),
            "data": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
            "prelude": PRELUDE,
            "maps": maps.script(_maps(lowered, program, modules)),
            "css": (FOLDER / "page.css").read_text(),
            "map_js": (FOLDER / "map.js").read_text(),
            "page_js": (FOLDER / "page.js").read_text(),
        },
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Each ``{{name}}`` once; what is put in is not looked at again."""
    head, *parts = template.split("{{")
    for part in parts:
        name, _, rest = part.partition("}}")
        head += values[name] + rest
    return head


# ---- texts ------------------------------------------------------------------------------------------------


def _stages(program: Lowered, modules: Mapping[str, ModuleOp]) -> list[_Stage]:
    stages = [_Stage("capture", listing.of_graph(program.ir("capture")), python=True)]
    stages += [
        _Stage("attn" if name == "attn" else f"after {name}", listing.of_module(module))
        for name, module in modules.items()
    ]
    for name, text in _kernels(program, list(modules.values())[-1]):
        stages.append(_Stage(name, text, python=program.backend == "triton", code=True))
    return stages


def _kernels(program: Lowered, module: ModuleOp) -> list[tuple[str, Listing]]:
    """Generated code of each kernel; a backend that cannot compile here leaves its reason."""
    stage = {"cpu": "mlir", "triton": "triton"}.get(program.backend)
    if stage is None:
        return []
    found = []
    for name, kernel in tile.kernels_of(module).items():
        try:
            text = program.request.compile_kernel(kernel, (stage,)).stages[stage]
        except AttncError as error:
            text = f"// {error}"
        found.append((f"{stage}: {name}", listing.of_source(text)))
    return found


def _encoded(stages: Sequence[_Stage], places: _Places) -> list[dict[str, Any]]:
    """Texts for the page; one that a pass left as it was is not repeated."""
    found: list[dict[str, Any]] = []
    last = -1
    for stage in stages:
        if last >= 0 and stages[last].text.lines == stage.text.lines:
            found.append({"name": stage.name, "same": last})
            continue
        last = len(found)
        origins = [places.of(o) for o in stage.text.origins]
        flags = {"python": stage.python, "code": stage.code}
        found.append({"name": stage.name, "lines": stage.text.lines, "from": origins, **flags})
    return found


def _first(stages: Sequence[_Stage]) -> list[int]:
    """What the page shows at first: what was recognised, and what came out of the passes."""
    tiles = [n for n, s in enumerate(stages) if not s.code]
    return [min(1, tiles[-1]), tiles[-1]]


# ---- maps and words ---------------------------------------------------------------------------------------


def _maps(lowered: Lowered, program: Lowered, modules: Mapping[str, ModuleOp]) -> list[dict[str, Any]]:
    found = []
    last = list(modules.values())[-1]
    names = _axes(program, modules)
    for name, kernel in tile.kernels_of(last).items():
        if any(isinstance(op, tile.ForOp) for op in kernel.body.walk()):
            found.append(maps.of_kernel(kernel, f"what {name} computes", names.get(kernel.rows.data.name, _FORWARD)))
    func = attn.func_of(lowered.module("attn"))
    for n, op in enumerate(_attends(func)):
        several = f" of attention {n + 1}" if n else ""
        found.append(maps.of_pattern(op, func.facts, f"what is live{several}, as it was written"))
    return found


_FORWARD = ("query", "key")


def _axes(program: Lowered, modules: Mapping[str, ModuleOp]) -> dict[str, tuple[str, str]]:
    """Rows -> what the axes of a map are: rows of some kernels of a gradient are keys."""
    if not program.gradient:
        return {}
    from ...ir.gradient import AttendGradientOp

    ops = [op for m in modules.values() for op in m.walk() if isinstance(op, AttendGradientOp)]
    return {s.key: ("key", "query") for op in ops for s in op.source_list}


def _attends(func: attn.FuncOp) -> list[attn.AttendOp]:
    return [op for op in func.body.block.ops if isinstance(op, attn.AttendOp)]


def _long(lowered: Lowered) -> list[str]:
    """The sizes that count queries or keys."""
    func = attn.func_of(lowered.module("attn"))
    names = {x for op in _attends(func) for e in _lengths(op) for x in free_vars(e)}
    return sorted(names & set(func.sizes()))


def _lengths(op: attn.AttendOp) -> list[Any]:
    return [op.domain[-1].extent, *(s.extent for s in op.source_list)]


def _words(e: Explanation) -> str:
    rows = []
    for k in e.kernels:
        rows.append(("sees", html.escape(k.pattern)))
        rows.append(("as a set", f'<span class="set">{html.escape(k.live_set)}</span>'))
        if k.domain:
            rows.append(("split into", html.escape(k.domain)))
        rows.append(("tiles", f"{k.tiles[0]} queries x {k.tiles[1]} keys: {html.escape(k.why)}"))
    for op in e.eager_ops:
        size = f" ({unit(op.bytes, 1024, 'B')})" if op.bytes else ""
        rows.append((f"with PyTorch, {html.escape(op.at)}", html.escape(f"{op.reason}{size}: {op.call}")))
    rows += [("faster", html.escape(each)) for each in e.advice]
    return f'<dl class="words">{"".join(f"<dt>{a}</dt><dd>{b}</dd>" for a, b in rows)}</dl>' if rows else ""


def _limits(e: Explanation) -> str:
    core = "core" if e.target.startswith("cpu") else "multiprocessor"
    return e.roofline.text(e.seconds, core) if e.kernels else "no kernel was generated"


__all__ = ["page"]
