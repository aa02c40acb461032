"""The reference backend keeps a kernel as text and interprets it."""

import torch

from attnc.backends import get_backend
from attnc.ir.text import parse_module
from attnc.ir.tile import kernels_of

KERNEL = """
tile.kernel @double(%x: !tile.mem<2, f32>, %y: !tile.mem<2, f32>) outputs 1
  grid "b < B, t < (N + 15) // 16" rows "i, t * 16, 16, N" {
  %a = tile.load %x at "b, i" : !tile.mem<2, f32> -> !tile.tile<"i:16", f32>
  %c = tile.map "lambda x: x * 2 + i" (%a) : (!tile.tile<"i:16", f32>) -> !tile.tile<"i:16", f32>
  tile.store %c, %y at "b, i" : !tile.tile<"i:16", f32> -> !tile.mem<2, f32>
}
"""


def test_round_trip_and_launch():
    engine = get_backend("reference")
    artifact = engine.compile(kernels_of(parse_module(KERNEL))["double"])
    assert artifact.kernel == "double"
    assert kernels_of(parse_module(artifact.payload.decode())).keys() == {"double"}
    x, y = torch.randn(2, 21), torch.full((2, 21), torch.nan)
    engine.load(artifact)([x, y], {"B": 2, "N": 21})
    torch.testing.assert_close(y, 2 * x + torch.arange(21))


def test_fingerprint_is_stable():
    assert get_backend("reference").fingerprint() == get_backend("reference").fingerprint()
