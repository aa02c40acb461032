"""Tile kernels of one forward attention, written as text, and their comparison with the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from attnc.backends import get_backend
from attnc.backends.api import Launch
from attnc.ir.interpret import run_kernel
from attnc.ir.text import parse_module
from attnc.ir.tile import KernelOp, kernels_of

DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}
TOLERANCE = {"f32": 3e-6, "f64": 8e-15, "bf16": 2e-2, "f16": 3e-3}

BODY = """
  %m{n}, %l{n}, %a{n} = tile.for j in [{ranges}] step {step} partial carry (%mi{n} = {m}, %li{n} = {l}, %ai{n} = {a}) : ({i}, {i}, {ie}) {{
    %K = tile.load %k at "{key}" : !tile.mem<4, {dt}> -> !tile.tile<"j:{step}, d:{D}", {dt}>
    %S = tile.dot %Q, %K : !tile.tile<"i:{rows}, d:{D}", {dt}>, !tile.tile<"j:{step}, d:{D}", {dt}> -> {ij}
    %T = tile.map "lambda dot: {score}" (%S) : ({ij}) -> {ij}
    %U = tile.mask %T where "{mask}" : {ij} -> {ij}
    %mx = tile.reduce "max" %U : {ij} -> {i}
    %mn = tile.map "lambda m, x: max(m, x)" (%mi{n}, %mx) : ({i}, {i}) -> {i}
    %ms = tile.map "lambda m: where(m == -inf, 0.0, m)" (%mn) : ({i}) -> {i}
    %al = tile.map "lambda m, s: exp2(m - s)" (%mi{n}, %ms) : ({i}, {i}) -> {i}
    %p = tile.map "lambda s, m: exp2(s - m)" (%U, %ms) : ({ij}, {i}) -> {ij}
    %ps = tile.reduce "sum" %p : {ij} -> {i}
    %ln = tile.map "lambda l, a, p: l * a + p" (%li{n}, %al, %ps) : ({i}, {i}, {i}) -> {i}
    %V = tile.load %v at "{value}" : !tile.mem<4, {dt}> -> !tile.tile<"j:{step}, e:{E}", {dt}>
    %as = tile.map "lambda acc, a: acc * a" (%ai{n}, %al) : ({ie}, {i}) -> {ie}
    %an = tile.dot %p, %V acc %as : {ij}, !tile.tile<"j:{step}, e:{E}", {dt}>, {ie} -> {ie}
    tile.yield %mn, %ln, %an : {i}, {i}, {ie}
  }}"""  # noqa: E501


@dataclass(frozen=True)
class Forward:
    """Parameters of a forward kernel; ``loops`` holds (ranges, step) pairs, run one after another."""

    D: int = 16
    E: int = 16
    dt: str = "f32"
    rows: int = 64
    mask: str = "j <= i"
    score: str = "dot * 0.25"
    loops: tuple[tuple[tuple[str, ...], int], ...] = ((("0, M",), 128),)
    query: str = "b, h, i, d"
    key: str = "b, h, j, d"
    value: str = "b, h, j, e"
    out: str = "b, h, i, e"
    captured: tuple[tuple[str, int, str], ...] = ()  # (name, rank, element type)
    grid: str = ""
    bound: str = "N"

    @property
    def text(self) -> str:
        ct = "f64" if self.dt == "f64" else "f32"
        i, ie = f'!tile.tile<"i:{self.rows}", {ct}>', f'!tile.tile<"i:{self.rows}, e:{self.E}", {ct}>'
        mem, lse = f"!tile.mem<4, {self.dt}>", f"!tile.mem<3, {ct}>"
        captured = "".join(f", %{name}: !tile.mem<{rank}, {e}>" for name, rank, e in self.captured)
        grid = self.grid or f"b < B, h < H, t < (N + {self.rows - 1}) // {self.rows}"
        qd = f'!tile.tile<"i:{self.rows}, d:{self.D}", {self.dt}>'
        parts = [
            f"tile.kernel @forward(%q: {mem}, %k: {mem}, %v: {mem}{captured}, %o: {mem}, %lse: {lse}) outputs 2",
            f'grid "{grid}" rows "i, t * {self.rows}, {self.rows}, {self.bound}" {{',
            f'%Q = tile.load %q at "{self.query}" : {mem} -> {qd}',
            f'%m = tile.full "-inf" : {i}\n%l = tile.full "0.0" : {i}\n%a = tile.full "0.0" : {ie}',
        ]
        m, l, a = "%m", "%l", "%a"
        for n, (ranges, step) in enumerate(self.loops):
            names = {"n": n, "m": m, "l": l, "a": a, "i": i, "ie": ie, "step": step}
            ij = f'!tile.tile<"i:{self.rows}, j:{step}", {ct}>'
            quoted = ", ".join(f'"{r}"' for r in ranges)
            parts.append(BODY.format(**names, **self.__dict__, ij=ij, ranges=quoted))
            m, l, a = f"%m{n}", f"%l{n}", f"%a{n}"
        row = self.out.rpartition(",")[0]
        parts += [
            f'%inv = tile.map "lambda l: where(l > 0, 1.0 / l, 0.0)" ({l}) : ({i}) -> {i}',
            f'%O = tile.map "lambda acc, x: acc * x" ({a}, %inv) : ({ie}, {i}) -> {ie}',
            f'tile.store %O, %o at "{self.out}" : {ie} -> {mem}',
            f'%L = tile.map "lambda m, l: (m + log2(l)) * 0.6931471805599453" ({m}, {l}) : ({i}, {i}) -> {i}',
            f'tile.store %L, %lse at "{row}" : {i} -> {lse}\n}}',
        ]
        return "\n".join(parts)


@dataclass(frozen=True)
class NarrowForward(Forward):
    """Probabilities are rounded before they meet the values."""

    dt: str = "bf16"

    @property
    def text(self) -> str:
        ij = f'!tile.tile<"i:{self.rows}, j:%d"'
        text = super().text
        for _, step in self.loops:
            wide, narrow = f"{ij % step}, f32>", f"{ij % step}, bf16>"
            text = text.replace(
                f"%an = tile.dot %p, %V acc %as : {wide}",
                f'%pn = tile.map "lambda p: p" (%p) : ({wide}) -> {narrow}\n'
                f"    %an = tile.dot %pn, %V acc %as : {narrow}",
            )
        return text


def parse_kernel(text: str) -> KernelOp:
    """The one kernel of a module."""
    (kernel,) = kernels_of(parse_module(text)).values()
    return kernel


@cache
def compiled(text: str, target: str | None = None) -> tuple[KernelOp, Launch]:
    """The kernel of a module and its machine code, which equal kernels of all tests share."""
    cpu, kernel = get_backend("cpu"), parse_kernel(text)
    return kernel, cpu.load(cpu.compile(kernel, target=target))


LAYOUTS = {"bhnd": (0, 1, 2, 3), "bnhd": (0, 2, 1, 3), "bhdn": (0, 1, 3, 2)}  # order in memory


def tensor(shape: Sequence[int], dtype: torch.dtype, layout: str = "bhnd", fill: float | None = None) -> torch.Tensor:
    """A (B, H, N, D) tensor whose memory is in another order."""
    order = LAYOUTS[layout]
    stored = [shape[n] for n in order]
    x = torch.randn(stored, dtype=torch.float64) if fill is None else torch.full(stored, fill, dtype=torch.float64)
    return x.to(dtype).permute([order.index(n) for n in range(4)])


def check_forward(
    case: Forward,
    lengths: Sequence[tuple[int, int]] = ((65, 130), (1, 1), (7, 13), (64, 0), (0, 5)),
    captured=lambda n, m: [],
    layout: str = "bhnd",
    target: str | None = None,
    key_heads: int = 3,
) -> None:
    """Compile once; for every (N, M) compare with the interpreter."""
    torch.manual_seed(0)
    kernel, launch = compiled(case.text, target)
    dtype = DTYPES[case.dt]
    for n, m in lengths:
        q = tensor((2, 3, n, case.D), dtype, layout)
        k, v = (tensor((2, key_heads, m, w), dtype, layout) for w in (case.D, case.E))
        inputs = [q, k, v, *captured(n, m)]
        lse = torch.full((2, 3, n), 7.0, dtype=torch.float64 if case.dt == "f64" else torch.float32)
        actual = [tensor((2, 3, n, case.E), dtype, layout, fill=7.0), lse.clone()]
        expected = [tensor((2, 3, n, case.E), dtype, layout, fill=7.0), lse.clone()]
        sizes = {"B": 2, "H": 3, "N": n, "M": m}
        launch([*inputs, *actual], sizes)
        run_kernel(kernel, [*inputs, *expected], sizes)
        tolerance = TOLERANCE[case.dt]
        torch.testing.assert_close(actual[0], expected[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(actual[1], expected[1], rtol=max(tolerance, 1e-14), atol=max(tolerance, 1e-14))
