"""The page of ``attnc inspect``: it loads nothing, its formulas are the kernel's, and its lines know each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import attnc
from attnc.compiler.coverage import coverage, loops_of
from attnc.compiler.report import listing, maps
from attnc.compiler.report.javascript import PRELUDE, function
from attnc.compiler.report.page import page
from attnc.compiler.report.sources import excerpts
from attnc.ir import tile
from attnc.ir.expr import Expr, evaluate, free_vars, parse

HERE = Path(__file__).name
MOST_BYTES = 5_000_000


def dilated(q, k, v):
    i = torch.arange(q.shape[-2])[:, None]
    j = torch.arange(k.shape[-2])[None, :]
    near = ((i - j).abs() <= 40) & ((i - j) % 4 == 0)  # the mask's line
    scores = q @ k.mT / q.shape[-1] ** 0.5  # the product's line
    return scores.masked_fill(~near, float("-inf")).softmax(-1) @ v  # the softmax's line


def hierarchical(q, k, v):
    coarse = k.unflatten(-2, (-1, 16)).mean(-2), v.unflatten(-2, (-1, 16)).mean(-2)
    keys, values = torch.cat([coarse[0], k], -2), torch.cat([coarse[1], v], -2)
    i = torch.arange(q.shape[-2])[:, None]
    j = torch.arange(k.shape[-2])[None, :]
    group = torch.arange(k.shape[-2] // 16)[None, :]
    before = group < i // 16  # for the coarse
    own = (i // 16 == j // 16) & (j <= i)  # for the fine
    live = torch.cat([before, own], -1)
    return (q @ keys.mT).masked_fill(~live, float("-inf")).softmax(-1) @ values


def documents(q, k, v, doc):
    return (q @ k.mT).masked_fill(doc[:, None] != doc[None, :], float("-inf")).softmax(-1) @ v


def nothing(q, k, v):
    return q + k + v


@cache
def lowered(fn: Any, n: int = 100) -> Any:
    q, k, v = (torch.zeros(()).expand(1, 2, n, 16) for _ in range(3))
    extra = (torch.zeros(n, dtype=torch.int64),) if fn is documents else ()
    return attnc.compile(fn, backend="cpu").lower(q, k, v, *extra)


@cache
def html_of(fn: Any, n: int = 100, backward: bool = False) -> str:
    return page(lowered(fn, n), backward=backward)


def line_of(comment: str) -> str:
    text = Path(__file__).read_text().splitlines()
    return f"{HERE}:{next(n for n, x in enumerate(text, 1) if x.endswith(comment))}"


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = dict(attrs)
        self.found += [values[n] for n in ("src", "href", "data", "action", "poster") if n in values]
        self.ids |= {values["id"]} if "id" in values else set()
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "fn, backward", [*((f, False) for f in (dilated, hierarchical, documents, nothing)), (dilated, True)]
)
def test_the_page_loads_nothing_and_is_small(fn: Any, backward: bool) -> None:
    text = html_of(fn, 96, backward)
    assert len(text.encode()) < MOST_BYTES
    links = _Links()
    links.feed(text)
    assert not links.open
    assert all(x.startswith("#") or x == "data:," for x in links.found)
    assert {x[1:] for x in links.found if x.startswith("#")} <= links.ids
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|import\(", text)
    assert "{{" not in text
    wanted = set(re.findall(r'getElementById\("([\w-]+)"\)', text)) - {"line-"}
    assert wanted <= links.ids


def test_a_page_is_the_same_bytes_each_time() -> None:
    assert page(lowered(dilated)) == html_of(dilated)


def test_lines_are_traced_from_the_source_to_the_kernel_and_back() -> None:
    mask, product, softmax = (line_of(f"# the {x}'s line") for x in ("mask", "product", "softmax"))
    low = lowered(dilated)
    modules = low.with_lines
    final = listing.of_module(modules["key-ranges"])
    marked = [(x, o) for x, o in zip(final.lines, final.origins, strict=True) if mask in o]
    assert any("tile.mask" in x for x, _ in marked)
    assert not any("tile.dot %query" in x or "tile.load" in x for x, _ in marked)
    dots = [o for x, o in zip(final.lines, final.origins, strict=True) if "tile.dot %query" in x]
    assert dots
    assert all(o == (product,) for o in dots)
    assert all(o == (softmax,) for x, o in zip(final.lines, final.origins, strict=True) if "tile.reduce" in x)
    kernel = tile.kernels_of(modules["key-ranges"])["dilated_kernel"]
    code = listing.of_source(low.request.compile_kernel(kernel, ("mlir",)).stages["mlir"])
    for place in (mask, product, softmax):
        assert sum(place in o for o in code.origins) >= 5
    assert not any("lines =" in x for x in code.lines)
    triton = low.on("sm_90")
    kernel = tile.kernels_of(triton.with_lines["key-ranges"])["dilated_kernel"]
    code = listing.of_source(triton.request.compile_kernel(kernel, ("triton",)).stages["triton"])
    masked = [o for x, o in zip(code.lines, code.origins, strict=True) if "masked = tl.where" in x]
    assert masked
    assert all(mask in o for o in masked)


def test_masks_of_two_sources_are_told_apart() -> None:
    final = listing.of_module(lowered(hierarchical, 96).with_lines["attn"])
    coarse, fine = (o for x, o in zip(final.lines, final.origins, strict=True) if x.lstrip().startswith("source "))
    assert line_of("# for the coarse") in coarse
    assert line_of("# for the coarse") not in fine
    assert line_of("# for the fine") in fine
    assert line_of("# for the fine") not in coarse
    tiles = listing.of_module(lowered(hierarchical, 96).with_lines["key-ranges"])
    masks = [o for x, o in zip(tiles.lines, tiles.origins, strict=True) if "tile.mask" in x and "// 16 == " in x]
    assert masks
    assert all(line_of("# for the coarse") not in o for o in masks)


def test_texts_do_not_show_lines_unless_asked() -> None:
    assert "lines =" not in lowered(dilated).ir("attn") + lowered(dilated).ir("tile") + lowered(dilated).source()


def test_every_op_of_a_gradient_has_a_line() -> None:
    final = listing.of_module(list(lowered(dilated).backward().with_lines.values())[-1])
    inner = [o for x, o in zip(final.lines, final.origins, strict=True) if re.match(r"\s+%\w+ = tile\.", x)]
    assert len(inner) > 20
    assert all(inner)


def test_excerpts_show_whole_functions() -> None:
    place = line_of("# the mask's line")
    (part,) = excerpts({HERE: __file__}, {place: 7})
    assert part["file"] == HERE
    assert part["lines"][0][1].startswith("def dilated")
    assert next(x for _, x, number in part["lines"] if number == 7).endswith("# the mask's line")
    assert excerpts({}, {"lost.py:3": 0}) == [{"file": "lost.py", "lines": [[3, "", 0]]}]


# ---- formulas ---------------------------------------------------------------------------------------------

EXPRESSIONS = [
    "(0 - 7) // 2 + (0 - 7) % 3 + i // (0 - 3) + i % (0 - 3)",
    "where(i < j and not i == 3, min(i, j), max(i, 0 - j))",
    "abs(i - j) <= 3 or (i ^ j) % 2 == 0",
    "(i & 12) + (j | 3) + (i << 3) + (j >> 1)",
    "(N - r + 7) // 8 + 1048576 * 1048576",
]


def _node(script: str) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node to run JavaScript with")
    done = subprocess.run([node, "-e", PRELUDE + script], capture_output=True, text=True, check=False, timeout=60)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_formulas_in_javascript_are_those_in_python() -> None:
    low = lowered(dilated)
    (kernel,) = tile.kernels_of(low.module("tile")).values()
    exprs = [parse(x) for x in EXPRESSIONS]
    exprs += [e for x in loops_of(kernel) for r in x.ranges for e in (r.lo, r.hi)] + [kernel.rows.data.bound]
    names = sorted(set().union(*(free_vars(e) for e in exprs)))
    points = [{n: (k * 37 + 11 * m) % 90 - (20 if n in "ij" else 0) for m, n in enumerate(names)} for k in range(40)]
    code = ", ".join(function(e) for e in exprs)
    found = _node(
        f"const P = {json.dumps(points)}; console.log(JSON.stringify([{code}].map((f) => P.map((v) => Number(f(v))))))"
    )
    for e, values in zip(exprs, found, strict=True):
        assert values == [int(evaluate(e, p)) for p in points], str(e)


@pytest.mark.parametrize("name", ["hierarchical_kernel", "hierarchical_key0", "hierarchical_key1"])
def test_the_map_covers_what_the_kernel_computes(name: str) -> None:
    """Pairs within the ranges of the page's formulas, summed over tiles, are those that ``coverage`` counts."""
    low = lowered(hierarchical, 1072)
    program = low if name.endswith("kernel") else low.backward()
    kernel = tile.kernels_of(program.module("tile"))[name]
    sizes = {n: int(low.hints[n]) for n in kernel.size_names}
    code = maps.script([maps.of_kernel(kernel, "k")])
    page_code = (Path(maps.__file__).parent / "map.js").read_text()
    functions = page_code[page_code.index("const LEFT") : page_code.index("function colours")]
    area = _node(f"""
        const DATA = {{ sizes: {json.dumps(sizes)} }}, MAPS = {code};
        const map = {{ of: MAPS[0], sizes: DATA.sizes, point: {{}} }};
        {functions}
        let area = 0;
        const visit = (n) => {{
          if (n < map.of.grid.length)
            for (let x = 0; x < map.of.grid[n].extent(env({{}})); x++) {{
              map.point[map.of.grid[n].name] = x;
              visit(n + 1);
            }}
          else {{
            const e = extent();
            for (let t = 0; t < e.tiles; t++)
              for (const s of spans(t)) area += (s.hi - s.lo) * Math.min(map.of.size, e.rows - t * map.of.size);
          }}
        }};
        visit(0);
        console.log(area);
    """)
    assert area == coverage(kernel, sizes).computed_pairs


@pytest.mark.parametrize("text", ["doc.int[i] == doc.int[j]", "bias[h, i] + 1.0"])
def test_what_depends_on_data_is_no_formula(text: str) -> None:
    e: Expr = parse(text)
    with pytest.raises(ValueError, match="depends on data"):
        function(e)
