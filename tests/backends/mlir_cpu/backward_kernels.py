"""Tile kernels of backward passes, written as text, and their comparison with the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from attnc.ir.interpret import run_kernel

from .kernels import DTYPES, TOLERANCE, compiled, tensor

SCORES = """
    %S = tile.dot %Q, %K : {id}, {jd} -> {ij}
    %T = tile.map "lambda dot: {score}" (%S) : ({ij}) -> {ij}
    %U = tile.mask %T where "{mask}" : {ij} -> {ij}
    %l = tile.load %lse at "{lse}" : {stat} -> {i}
    %s = tile.map "lambda l: where(l == -inf, 0.0, l * 1.4426950408889634)" (%l) : ({i}) -> {i}
    %p = tile.map "lambda t, s: exp2(t * 1.4426950408889634 - s)" (%U, %s) : ({ij}, {i}) -> {ij}
    %g = tile.dot %dO, %V : {ie}, {je} -> {ij}
    %e = tile.load %delta at "{lse}" : {stat} -> {i}
    %ds = tile.map "lambda p, g, e: p * (g - e) * {factor}" (%p, %g, %e) : ({ij}, {ij}, {i}) -> {ij}"""


@dataclass(frozen=True)
class Backward:
    """Parameters of a backward kernel; maps of queries use ``i``, of keys ``j``."""

    D: int = 16
    E: int = 16
    dt: str = "f32"
    rows: int = 64
    step: int = 64
    mask: str = "j <= i"
    score: str = "dot * 0.25"
    factor: str = "0.25"
    ranges: tuple[str, ...] = ()
    query: str = "b, h, i, d"
    key: str = "b, h, j, d"
    value: str = "b, h, j, e"
    out: str = "b, h, i, e"
    lse: str = "b, h, i"
    grid: str = ""
    bound: str = ""
    sequential: int = -1
    fused: bool = True
    add: str = ""  # " add": the rows' own gradients are added too
    extra: str = ""  # steps that see %ds of a pair of tiles and write ``outputs``
    outputs: tuple[str, ...] = ()

    @property
    def accumulator(self) -> str:
        return "f64" if self.dt == "f64" else "f32"

    def tile(self, axes: str, element: str) -> str:
        sizes = {"d": self.D, "e": self.E, self.row_axis: self.rows}
        return f'!tile.tile<"{", ".join(f"{a}:{sizes.get(a, self.step)}" for a in axes)}", {element}>'

    @property
    def names(self) -> dict[str, str]:
        types = {a: self.tile(a, self.dt) for a in ("id", "ie", "jd", "je")}
        types |= {a: self.tile(a, self.accumulator) for a in ("i", "j", "ij")}
        types |= {f"c{a}": self.tile(a, self.accumulator) for a in ("id", "ie", "jd", "je")}
        mem = {"mem": f"!tile.mem<4, {self.dt}>", "sum": f"!tile.mem<4, {self.accumulator}>",
               "stat": f"!tile.mem<3, {self.accumulator}>"}  # fmt: skip
        return self.__dict__ | types | mem

    @property
    def scores(self) -> str:
        return SCORES.format(**self.names)

    def quoted(self, size: str) -> str:
        return ", ".join(f'"{r}"' for r in self.ranges or (f"0, {size}",))

    def header(self, outputs: Sequence[str], size: str) -> str:
        names, axis, rows = self.names, self.row_axis, self.rows
        args = [f"%{a}: {names['mem']}" for a in ("q", "k", "v", "do")]
        args += [f"%{a}: {names['stat']}" for a in ("lse", "delta")] + list(outputs)
        grid = self.grid or f"b < B, h < H, t < ({size} + {rows - 1}) // {rows}"
        return (
            f'tile.kernel @backward({", ".join(args)}) outputs {len(outputs)}\ngrid "{grid}" '
            f'sequential {self.sequential} rows "{axis}, t * {rows}, {rows}, {self.bound or size}" {{'
        )


@dataclass(frozen=True)
class KeyBackward(Backward):
    """Rows are keys: dk and dv, and dq too if fused."""

    row_axis = "j"

    @property
    def text(self) -> str:
        names = self.names
        ordered = self.sequential if self.sequential >= 0 else int(self.fused)
        outputs = [f"%dk: {names['mem']}", f"%dv: {names['mem']}"]
        outputs = [f"%dq: {names['sum']}", *outputs] if self.fused else outputs
        header = self.header([*outputs, *self.outputs], "M").replace("sequential -1", f"sequential {ordered}")
        fused = """
    %dq0 = tile.dot %ds, %K : {ij}, {jd} -> {cid}
    tile.store %dq0, %dq at "{query}" add : {cid} -> {sum}""".format(**names)
        body = """
  %K = tile.load %k at "{key}" : {mem} -> {jd}
  %V = tile.load %v at "{value}" : {mem} -> {je}
  %dk0 = tile.full "0.0" : {cjd}
  %dv0 = tile.full "0.0" : {cje}
  %dk3, %dv3 = tile.for i in [{quoted}] step {step} partial carry (%dk1 = %dk0, %dv1 = %dv0) : ({cjd}, {cje}) {{
    %Q = tile.load %q at "{query}" : {mem} -> {id}
    %dO = tile.load %do at "{out}" : {mem} -> {ie}{scores}
    %dv2 = tile.dot %p, %dO acc %dv1 : {ij}, {ie}, {cje} -> {cje}
    %dk2 = tile.dot %ds, %Q acc %dk1 : {ij}, {id}, {cjd} -> {cjd}{fused_}{extra_}
    tile.yield %dk2, %dv2 : {cjd}, {cje}
  }}
  tile.store %dk3, %dk at "{key}"{add} : {cjd} -> {mem}
  tile.store %dv3, %dv at "{value}"{add} : {cje} -> {mem}
}}"""
        parts = {"scores": self.scores, "fused_": fused if self.fused else "", "extra_": self.extra.format(**names)}
        return header + body.format(**names, **parts, quoted=self.quoted("N"))


@dataclass(frozen=True)
class NarrowBackward(KeyBackward):
    """So are probabilities and their gradients, once for each product."""

    dt: str = "bf16"

    @property
    def text(self) -> str:
        text, wide, narrow = super().text, self.tile("ij", "f32"), self.tile("ij", "bf16")
        for name, source, product in (("pn", "p", "dO"), ("dsn", "ds", "Q"), ("dsk", "ds", "K")):
            rounded = f'%{name} = tile.map "lambda x: x" (%{source}) : ({wide}) -> {narrow}\n    '
            for result in ("%dv2", "%dk2", "%dq0"):
                old = f"{result} = tile.dot %{source}, %{product}"
                if old in text:
                    head, _, tail = text.partition(old)
                    text = head + rounded + old.replace(f"%{source},", f"%{name},") + tail.replace(wide, narrow, 1)
        return text


@dataclass(frozen=True)
class QueryBackward(Backward):
    """Rows are queries: dq."""

    row_axis = "i"

    @property
    def text(self) -> str:
        names = self.names
        header = self.header([f"%dq: {names['sum']}", *self.outputs], "N")
        header = header.replace("sequential -1", f"sequential {max(self.sequential, 0)}")
        body = """
  %Q = tile.load %q at "{query}" : {mem} -> {id}
  %dO = tile.load %do at "{out}" : {mem} -> {ie}
  %dq0 = tile.full "0.0" : {cid}
  %dq3 = tile.for j in [{quoted}] step {step} partial carry (%dq1 = %dq0) : ({cid}) {{
    %K = tile.load %k at "{key}" : {mem} -> {jd}
    %V = tile.load %v at "{value}" : {mem} -> {je}{scores}
    %dq2 = tile.dot %ds, %K acc %dq1 : {ij}, {jd}, {cid} -> {cid}{extra_}
    tile.yield %dq2 : {cid}
  }}
  tile.store %dq3, %dq at "{query}" : {cid} -> {sum}
}}"""
        parts = {"scores": self.scores, "extra_": self.extra.format(**names)}
        return header + body.format(**names, **parts, quoted=self.quoted("M"))


def check_backward(
    case: KeyBackward | QueryBackward,
    lengths: Sequence[tuple[int, int]] = ((65, 130), (1, 1), (7, 13), (130, 64), (5, 0)),
    layout: str = "bhnd",
    target: str | None = None,
    extra: Callable[[int, int], list[torch.Tensor]] = lambda n, m: [],
    heads: int = 3,
    key_heads: int = 3,
) -> None:
    """Compile once; for every (N, M) compare with the interpreter."""
    torch.manual_seed(0)
    kernel, launch = compiled(case.text, target)
    dtype, wide = DTYPES[case.dt], DTYPES[case.accumulator]
    for n, m in lengths:
        q, do = (tensor((2, heads, n, w), dtype, layout) for w in (case.D, case.E))
        k, v = (tensor((2, key_heads, m, w), dtype, layout) for w in (case.D, case.E))
        lse = torch.randn(2, heads, n, dtype=wide) + 3.0
        lse[..., n // 2] = -torch.inf
        inputs = [q, k, v, do, lse, torch.randn(2, heads, n, dtype=wide)]
        outputs = [tensor(q.shape, wide, layout, fill=0.0)]
        if isinstance(case, KeyBackward):
            grads = [tensor(x.shape, dtype, layout, fill=0.0 if case.add else 7.0) for x in (k, v)]
            outputs = [*(outputs if case.fused else []), *grads]
        outputs += extra(n, m)
        expected = [x.clone() for x in outputs]
        sizes = {"B": 2, "H": heads, "N": n, "M": m}
        launch([*inputs, *outputs], sizes)
        run_kernel(kernel, [*inputs, *expected], sizes)
        tolerance = TOLERANCE[case.dt]
        for actual, right in zip(outputs, expected, strict=True):
            scale = max(float(right.abs().max()), 1.0) if right.numel() else 1.0
            torch.testing.assert_close(actual / scale, right / scale, rtol=tolerance, atol=tolerance)
