"""Kernels to test the triton backend with: one ``attn.attend`` as text, lowered by the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from xdsl.dialects.builtin import ModuleOp

from attnc.backends import get_backend
from attnc.compiler.passes.online_softmax import OnlineSoftmax
from attnc.ir import attn, tile
from attnc.ir.dtypes import to_torch
from attnc.ir.interpret import bind_sizes, interpret
from attnc.ir.text import context, parse_module, print_module

DTYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


@dataclass(frozen=True)
class Case:
    """An attention: mask, score, maps and captured tensors ``name -> (shape, element type)``."""

    mask: str = "True"
    score: str = "lambda dot: dot * 0.125"
    captures: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    dtype: str = "f32"
    width: int = 64
    value_width: int | None = None
    tiles: str = "64x64"
    over: str = "b < B, h < H, i < N"
    query: str = "b, h, i, d"
    key: str = "b, h, j, d"
    value: str = "b, h, j, e"
    keys: str = "M"  # extent of the key loop
    key_shape: str = "B, H, M"
    out: str = "b, h, i, e"
    lse: str = "b, h, i"
    edit: Callable[[str], str] = lambda text: text  # a change to the lowered kernel's text

    def attn(self, dtype: str | None = None) -> str:
        """The module before lowering, optionally with another float type throughout."""
        t = dtype or self.dtype
        e = self.value_width or self.width
        types = [f'!attn.tensor<"B, H, N, {self.width}", {t}>', f'!attn.tensor<"{self.key_shape}, {self.width}", {t}>']
        types.append(f'!attn.tensor<"{self.key_shape}, {e}", {t}>')
        for shape, element in self.captures.values():
            types.append(f'!attn.tensor<"{shape}", {dtype if dtype and element in DTYPES else element}>')
        out = f'!attn.tensor<"B, H, N, {e}", {t}>', f'!attn.tensor<"B, H, N", {"f64" if t == "f64" else "f32"}>'
        args = ", ".join(f"%{n}: {x}" for n, x in zip(["q", "k", "v", *self.captures], types, strict=True))
        captures = "\n".join(f"    capture {n} = %{n}" for n in self.captures)
        return f"""attn.func @f({args}) {{
  %o, %lse = attn.attend over "{self.over}"
    query %q "{self.query}" width {self.width}
    source "j < {self.keys}" key %k "{self.key}" value %v "{self.value}" mask "{self.mask}" score "{self.score}"
{captures}
    normaliser softmax tiles "{self.tiles}"
    out "{self.out}" width {e} lse "{self.lse}" attributes {{at = "user.py:3"}}
    : ({", ".join(types)}) -> ({", ".join(out)})
  attn.return %o, %lse : {", ".join(out)}
}}
"""

    def lowered(self) -> ModuleOp:
        module = parse_module(self.attn())
        OnlineSoftmax(narrow=self.dtype in ("bf16", "f16")).apply(context(), module)
        return parse_module(self.edit(print_module(module)))

    def kernel(self) -> tile.KernelOp:
        (kernel,) = tile.kernels_of(self.lowered()).values()
        return kernel

    def inputs(
        self, b: int = 1, h: int = 2, n: int = 65, m: int = 65, key_heads: int | None = None
    ) -> list[torch.Tensor]:
        """Random query, key and value."""
        torch.manual_seed(0)
        widths = self.width, self.value_width or self.width
        shapes = [(b, h, n, self.width), *[(b, key_heads or h, m, w) for w in widths]]
        return [torch.randn(s, dtype=torch.float64).to(DTYPES[self.dtype]) for s in shapes]


def run(case: Case, tensors: Sequence[torch.Tensor], backend: str = "triton") -> list[torch.Tensor]:
    """Run the lowered kernel; outputs start as NaN, so that an element left unwritten shows."""
    module = case.lowered()
    sizes = bind_sizes(attn.func_of(module), tensors)
    (launch,) = (op for op in module.walk() if isinstance(op, tile.LaunchOp))
    outputs = []
    for value, like in zip(launch.outputs, ("o", "lse"), strict=True):
        width = [case.value_width or case.width] if like == "o" else []
        shape = [*tensors[0].shape[:-1], *width]
        outputs.append(torch.full(shape, torch.nan, dtype=to_torch(attn.tensor_type(value).element)))
    engine = get_backend(backend)
    (kernel,) = tile.kernels_of(module).values()
    engine.load(engine.compile(kernel))([*tensors, *outputs], sizes)
    return outputs


def oracle(case: Case, tensors: Sequence[torch.Tensor], dtype: str = "f64") -> list[torch.Tensor]:
    """The attention as defined, in float64 or in another float type."""
    wide = [t.to(DTYPES[dtype]) if t.is_floating_point() else t for t in tensors]
    return interpret(parse_module(case.attn(dtype)), wide)


def check(case: Case, tensors: Sequence[torch.Tensor], backend: str = "triton") -> None:
    """The error against float64 is at most twice that of plain PyTorch in the same type, plus 4 ulp."""
    got, exact = run(case, tensors, backend), oracle(case, tensors)
    plain = eager(case, tensors)
    for name, x, y, z in zip(("out", "lse"), got, exact, plain, strict=True):
        assert not x.isnan().any(), f"{name} holds NaN"
        assert torch.equal(x.isinf(), y.isinf()), f"{name} is infinite in other places"
        x, y, z = (t.double().nan_to_num(0, 0, 0) for t in (x, y, z))
        if not y.numel():
            continue
        ulp = torch.finfo(got[0].dtype if name == "out" else got[1].dtype).eps * y.abs().max()
        error, limit = (x - y).abs().max(), 2 * (z - y).abs().max() + 4 * ulp
        assert error <= limit, f"{name}: error {error:.3g} exceeds {limit:.3g}"


def eager(case: Case, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The definition evaluated in the inputs' own precision: scores and sums in float32, result rounded."""
    out, lse = oracle(case, tensors, "f64" if case.dtype == "f64" else "f32")
    return [out.to(DTYPES[case.dtype]), lse]
