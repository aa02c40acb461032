"""What ``explain`` says, on IR written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attnc
from attnc.compiler.analysis import cost, live_area, walked
from attnc.compiler.coverage import coverage, loops_of
from attnc.compiler.errors import StageError
from attnc.compiler.explain import MissingSizeError
from attnc.compiler.lowered import Lowered
from attnc.compiler.wording import in_words
from attnc.ir import tile
from attnc.ir.errors import AttncError
from attnc.ir.expr import evaluate, parse
from attnc.ir.text import parse_module

MODULE = """
attn.func @f(%q: !attn.tensor<"H, N, 16", f32>, %k: !attn.tensor<"H, N, 16", f32>, %v: !attn.tensor<"H, N, 16", f32>) {{
  %o, %lse = attn.attend over "h < H, i < N"
    query %q "h, i, d" width 16
    source "j < N" key %k "h, j, d" value %v "h, j, e" mask "{mask}" score "lambda dot: dot * 0.25"
    normaliser softmax
    out "h, i, e" width 16 lse "h, i" attributes {{at = "model.py:12"}}
    : (!attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, N, 16", f32>)
    -> (!attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, N", f32>)
  {after}
}}
"""
RETURN = 'attn.return %o : !attn.tensor<"H, N, 16", f32>'
OUTER = """%s = attn.call "x0 @ x0.mT" (%o) {at = "model.py:13"}
    : (!attn.tensor<"H, N, 16", f32>) -> !attn.tensor<"H, N, N", f32>
  attn.return %s : !attn.tensor<"H, N, N", f32>"""


def lowered(mask: str, after: str = RETURN, target: str = "cpu-avx512", **sizes: int) -> Lowered:
    text = MODULE.format(mask=mask, after=after)
    hints = {"H": 2, "N": 1000, **sizes}
    return Lowered("", lambda: parse_module(text), "reference", "f32", torch.device("cpu"), {}, target, hints)


@pytest.mark.parametrize(
    "mask, live",
    [
        ("True", 1000 * 1000),
        ("j <= i", 1000 * 1001 // 2),
        ("abs(i - j) <= 40", 1000 * 81 - 40 * 41),
        ("i // 100 == j // 100", 1000 * 100),
    ],
)
def test_live_pairs_are_counted(mask: str, live: int) -> None:
    page = lowered(mask).explain()
    (kernel,) = page.kernels
    assert page.fused
    assert (kernel.pairs, kernel.live_pairs) == (2 * 1000 * 1000, 2 * live)
    assert page.live_fraction == live / 1e6
    assert page.live_fraction <= page.computed_fraction <= 1
    assert page.flops == 2 * 32 * kernel.coverage.computed_pairs
    assert page.bytes == 4 * 2 * 1000 * (4 * 16 + 1)


def test_one_query_has_a_kernel_of_parts_and_one_that_merges_them() -> None:
    def decode(q, k, v):
        return (q @ k.mT).softmax(-1) @ v

    fn = attnc.compile(decode, backend="cpu", fallback="error")
    inputs = [torch.zeros(1, 2, n, 16) for n in (1, 5000, 5000)]
    parts, merge = fn.lower(*inputs).explain().kernels
    assert (parts.pairs, merge.pairs) == (2 * 5000, 2 * 3)


def test_a_call_without_queries_is_explained() -> None:
    def causal(q, k, v):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
        return (q @ k.mT).masked_fill(j > i, -torch.inf).softmax(-1) @ v

    fn = attnc.compile(causal, backend="cpu", fallback="error")
    (kernel,) = fn.lower(*(torch.zeros(1, 2, n, 16) for n in (0, 5, 5))).explain().kernels
    assert (kernel.pairs, kernel.live_pairs, kernel.coverage.computed_pairs) == (0, 0, 0)


def test_the_table() -> None:
    text = str(lowered("abs(i - j) <= 40 and j <= i").explain())
    parts = [
        "f: fused, 1 kernel for reference",
        "from model.py:12",
        "causal; at most 40 keys back",
        "{ (i, j) : 0 <= i < N, 0 <= j < N, ",
        "empty (skipped)",
        "partial [",
    ]
    assert [p for p in parts if p not in text] == []


def test_a_dilated_window_is_split() -> None:
    page = lowered("abs(i - j) <= 160 and (i - j) % 8 == 0").explain()
    (kernel,) = page.kernels
    assert kernel.pattern == "window of 160 keys on each side; every 8th key"
    assert "8 independent parts" in kernel.domain
    assert kernel.live_pairs == 2 * sum(abs(i - j) <= 160 for i in range(1000) for j in range(i % 8, 1000, 8))
    assert page.computed_fraction < 0.15


def test_quadratic_calls_are_named() -> None:
    page = lowered("True", OUTER).explain()
    assert not page.fused
    (op,) = page.eager_ops
    assert (op.at, op.bytes) == ("model.py:13", 4 * 2 * 1000 * 1000)
    assert "NOT fused" in str(page)


def axial(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention along the rows of a grid plus attention along its columns."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.mT).softmax(-1) @ v

    rows = attend(q, k, v)
    columns = attend(*(x.transpose(-3, -2) for x in (q, k, v))).transpose(-3, -2)
    return (rows + columns).relu() @ torch.ones(8, 8)


def test_a_grid_is_not_quadratic() -> None:
    page = attnc.compile(axial).lower(*torch.zeros(3, 2, 6, 10, 8).unbind()).explain()
    assert (len(page.kernels), page.fused) == (2, True)
    assert page.eager_ops
    assert not any(op.quadratic for op in page.eager_ops)


def test_the_length_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_area, "MOST_ROWS", 0)  # division by zero where rows are evaluated one by one
    n = 2**40
    (kernel,) = lowered("abs(i - j) <= 160 and (i - j) % 8 == 0", N=n).explain().kernels
    assert kernel.exact
    assert kernel.live_pairs == 2 * (41 * n - 2 * 8 * sum(range(1, 21)))


def test_tiles_are_costed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[object] = []

    class Counting(live_area.Points):
        def __init__(self, domain: Any, exprs: Any, sizes: Any):
            counted.append((tuple(domain), tuple(exprs), tuple(sizes.items())))
            super().__init__(domain, exprs, sizes)

    monkeypatch.setattr(walked, "Points", Counting)
    for cached in (cost.timings, walked._lengths):
        cached.cache_clear()
    page = lowered("abs(i - j) <= 160 and (i - j) % 8 == 0").explain()
    assert "best of 11 sizes" in page.kernels[0].why
    # with the residues and without, for two lengths and three heights of tiles; then at the sizes at hand
    assert len(counted) == len(set(counted)) == 2 * 2 * 3 + 1


# ---- gradients -------------------------------------------------------------------------------------------


def test_the_gradient() -> None:
    backward = lowered("abs(i - j) <= 40").explain().backward
    assert backward.compiled
    assert not backward.eager
    delta, query, key = backward.kernels
    assert [k.name for k in backward.kernels] == ["f_delta", "f_query", "f_key0"]
    assert (delta.coverage.computed_pairs, delta.flops) == (0, 0)
    assert (query.order, key.order) == ("queries x keys", "keys x queries")
    for kernel, products in ((query, 3), (key, 4)):
        rows, _ = kernel.tiles
        # as far as the band reaches from a tile of rows
        walked = sum(
            (min(1000, t + rows) - t) * (min(1000, t + rows + 40) - max(0, t - 40)) for t in range(0, 1000, rows)
        )
        assert kernel.coverage.computed_pairs == 2 * walked
        assert kernel.flops == 2 * walked * products * 2 * 16
    text = str(backward)
    assert text.startswith("gradient: 3 kernels, ")
    assert f"{query.tiles[0]} queries x {query.tiles[1]} keys" in text


def test_the_gradient_is_lowered_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Lowered) -> Lowered:
        raise AttncError("not today")

    monkeypatch.setattr(Lowered, "backward", refuse)
    page = lowered("j <= i").explain()
    assert page.fused
    assert not page.backward.compiled
    assert str(page.backward).splitlines() == ["gradient: by PyTorch", " " * 14 + "not today"]


def test_the_page_of_a_gradient() -> None:
    with pytest.raises(StageError, match=r"page's \.backward"):
        lowered("j <= i").backward().explain()


def test_other_sizes() -> None:
    from attnc.compiler.explain import explain

    assert explain(lowered("j <= i"), {"N": 10}).sizes == {"H": 2, "N": 10}
    missing = lowered("j <= i")
    missing.hints = {"H": 2}
    with pytest.raises(MissingSizeError, match="size N"):
        missing.explain()


def test_coverage_counts_what_the_loops_do() -> None:
    module = lowered("j <= i or j < 5").module("tile")
    (kernel,) = tile.kernels_of(module).values()
    sizes = {"H": 2, "N": 333}
    got = coverage(kernel, sizes)
    pairs, tiles = 0, {"full": 0, "partial": 0}
    for t in range(-(-333 // got.queries)):
        rows = min(got.queries, 333 - t * got.queries)
        for loop in loops_of(kernel):
            for r in loop.ranges:
                lo, hi = (int(evaluate(e, {**sizes, "t": t, "h": 0})) for e in (r.lo, r.hi))
                pairs += 2 * rows * max(hi - lo, 0)
                tiles[loop.kind] += 2 * -(-max(hi - lo, 0) // loop.step)
    assert (got.computed_pairs, got.full, got.partial) == (pairs, tiles["full"], tiles["partial"])
    assert got.tasks == 2 * -(-333 // got.queries)


@pytest.mark.parametrize(
    "mask, words",
    [
        ("True", "every key"),
        ("j <= i", "causal"),
        ("j < i", "causal, without the query itself"),
        ("i - j <= 255 and j <= i", "causal; at most 255 keys back"),
        ("abs(i - j) <= 256", "window of 256 keys on each side"),
        ("(i - j) % 8 == 0", "every 8th key"),
        ("i // 128 == j // 128", "blocks of 128"),
        ("j < 4 or abs(i - j) <= 64", "the first 4 keys or window of 64 keys on each side"),
        ("doc.int[i] == doc.int[j]", "`doc.int[i] == doc.int[j]` (depends on doc)"),
        ("abs(i % 64 - j % 64) <= 3", "columns of a grid 64 wide within 3"),
        ("i * j < 7", "`i * j < 7`"),
    ],
)
def test_words(mask: str, words: str) -> None:
    assert in_words(parse(mask), "i", "j") == words


def test_rows_and_columns_of_a_square_image_are_fused() -> None:
    """Their sum has an axis of queries and one of keys, and is no larger than what the attentions read."""

    def rows(x):
        return (x @ x.mT).softmax(-1) @ x

    def axial(x):  # (batch, height, width, features); the sum makes height and width one size
        return rows(x) + rows(x.transpose(1, 2)).transpose(1, 2) + rows(x.transpose(1, 2))

    page = attnc.compile(axial, backend="cpu", fallback="silent").lower(torch.randn(2, 12, 12, 8)).explain()
    assert len(page.kernels) >= 2
    assert page.fused, str(page)

    def leaks(x):
        return rows(x) + (x @ x.mT).sum(-1, keepdim=True)

    page = attnc.compile(leaks, backend="cpu", fallback="silent").lower(torch.randn(2, 12, 12, 8)).explain()
    assert not page.fused


def test_advice_names_what_would_help() -> None:
    (line,) = [x for x in lowered("abs(i - j) <= 2", N=4096, H=2).explain().advice if "f_kernel" in x]
    assert "pairs for each live one" in line
    assert not [x for x in lowered("True", N=4096, H=2).explain().advice if "f_kernel" in x]
    (line,) = lowered("True", OUTER, N=4096, H=2).explain().advice[:1]
    assert line.startswith("model.py:13: ")
    half = lowered("True", N=4096, H=2, target="sm_90").explain()
    assert any("16 bits" in x or "bf16 inputs" in x for x in half.advice)


def test_the_roofline_is_a_limit() -> None:
    page = lowered("j <= i", N=4096, H=2).explain()
    roof = page.roofline
    assert roof.intensity == page.intensity == page.flops / page.bytes
    assert roof.roof <= roof.peak
    assert roof.seconds == max(page.flops / roof.peak, page.bytes / roof.bandwidth)
    assert roof.share(roof.seconds) == 1
    assert roof.share(roof.seconds, cores=2) == 0.5
    assert roof.bound_by == ("arithmetic" if roof.intensity >= roof.ridge else "memory")
    assert "roofline" in str(page)


def test_notebooks_show_tables() -> None:
    low = lowered("j <= i", N=256, H=2)
    page = low.explain()
    shown = page._repr_html_()
    assert "<table>" in shown
    assert "causal" in shown
    assert "<script" not in shown
    assert "attn.attend" in low._repr_html_()


def test_plot_draws_maps_and_roofline(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    figure = lowered("abs(i - j) <= 40", N=512, H=2).explain().plot()
    map_axis, roof_axis = figure.axes
    assert roof_axis.get_xscale() == "log"
    assert roof_axis.get_lines()
    assert map_axis.collections
    pyplot.close(figure)
    lowered("abs(i - j) <= 40", N=512, H=2).explain().plot(str(tmp_path / "page.svg"))
    assert (tmp_path / "page.svg").read_text().startswith("<?xml")


def test_machine_code_of_a_gpu_program_and_its_gradient() -> None:
    pytest.importorskip("triton")
    shown: list[str] = []

    def track(items: Any, description: str) -> Any:
        shown.append(f"{description}: {len(items)}")
        return items

    program = lowered("j <= i").on("sm_90")
    page = program.explain(compiled=True, track=track)
    (kernel,) = page.kernels
    assert kernel.compiled is not None
    assert kernel.compiled.code.target == "sm_90"
    assert kernel.compiled.code.registers > 0
    assert kernel.compiled.tasks == kernel.coverage.tasks
    assert page.expected_seconds == kernel.compiled.expected.seconds > 0
    assert f"{kernel.compiled.code.registers} registers" in str(page)
    assert page.backward.expected_seconds == sum(k.compiled.expected.seconds for k in page.backward.kernels) > 0
    assert str(page.backward).count(" registers, ") == len(page.backward.kernels)
    assert shown == ["compiling for sm_90: 1", f"compiling for sm_90: {len(page.backward.kernels)}"]
    assert program.explain().expected_seconds is None


def test_machine_code_is_a_gpus() -> None:
    with pytest.raises(StageError, match="lower for one"):
        lowered("j <= i").explain(compiled=True)
