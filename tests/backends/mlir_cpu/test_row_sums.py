"""Sums over the features of rows, added up as they lie in memory."""

from __future__ import annotations

import pytest
import torch

from attnc.ir.interpret import run_kernel

from .kernels import DTYPES, TOLERANCE, compiled

TEXT = """builtin.module {{
  tile.kernel @sums(%x: !tile.mem<3, {dt}>, %y: !tile.mem<3, {dt}>, %out: !tile.mem<2, f32>) outputs 1
    grid "h < H, t < (N + {rows} - 1) // {rows}" rows "i, t * {rows}, {rows}, N" {{
    %a = tile.load %x at "h, i, e" : !tile.mem<3, {dt}> -> !tile.tile<"i:{rows}, e:{D}", {dt}>
    %b = tile.load %y at "h, i, e" : !tile.mem<3, {dt}> -> !tile.tile<"i:{rows}, e:{D}", {dt}>
    %c = tile.map "lambda a, b: {body}" (%a, %b) : (!tile.tile<"i:{rows}, e:{D}", {dt}>, !tile.tile<"i:{rows}, e:{D}", {dt}>) -> !tile.tile<"i:{rows}, e:{D}", f32>
    %s = tile.reduce "sum" %c : !tile.tile<"i:{rows}, e:{D}", f32> -> !tile.tile<"i:{rows}", f32>
    tile.store %s, %out at "h, i" : !tile.tile<"i:{rows}", f32> -> !tile.mem<2, f32>
  }}
}}"""  # noqa: E501
LAYOUTS = {
    "rows as they lie": lambda h, n, d, dtype: torch.randn(h, n, d).to(dtype),
    "rows apart": lambda h, n, d, dtype: torch.randn(n, h, d + 3).to(dtype)[..., :d].transpose(0, 1),
    "tokens side by side": lambda h, n, d, dtype: torch.randn(h, d, n).to(dtype).mT,
    "features apart": lambda h, n, d, dtype: torch.randn(h, n, d, 2).to(dtype)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dt", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("width", [1, 5, 16, 80])
def test_sums(width: int, dt: str, layout: str) -> None:
    torch.manual_seed(0)
    for body, rows in (("a * b", 16), ("a - b + 2", 32)):  # zeros beyond a row's end would count in the second
        kernel, launch = compiled(TEXT.format(dt=dt, rows=rows, D=width, body=body))
        for n in (1, 15, 16, 17, 67):
            x, y = (LAYOUTS[layout](2, n, width, DTYPES[dt]) for _ in range(2))
            out = torch.full((2, n), torch.nan)
            launch([x, y, out], {"H": 2, "N": n})
            expected = torch.full((2, n), torch.nan)
            run_kernel(kernel, [x, y, expected], {"H": 2, "N": n})
            scale = (x.float().abs() + y.float().abs() + 2).square().sum(-1).max().item()
            assert (out - expected).abs().max() <= TOLERANCE["f32"] * scale, (body, n)
