"""``ATTNC_VERIFY=each``: interpret the program before and after every pass, and compare.

``differentiate`` makes another function, which is compared with PyTorch's gradient of the one before.
Everything is computed in float64 on small random inputs, whose sizes satisfy the function's guards, so
what a correct pass may change is a few roundings.  The limit is derived from the number of terms summed.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Sequence

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ..ir import attn
from ..ir.dtypes import FLOATS, name_of, to_torch
from ..ir.expr import evaluate, free_vars, ge, loads
from ..ir.interpret import bind_sizes, interpret
from ..ir.text import parse_module, print_module
from .errors import PassVerifyError
from .instruments import Quiet
from .passes.differentiate import Differentiate
from .verify_gradient import by_autograd

log = logging.getLogger("attnc")

Tensor = torch.Tensor

# A length that is a multiple of nothing first, then small numbers, then multiples of usual block sizes.
_LENGTHS = (37, 2, 1, 3, 4, 5, 6, 8, 12, 16, 24, 32, 36, 48, 49, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
_BATCHES = (2, 1, 3, 4, 6, 8, 12, 16, 32)
_ATTEMPTS = 20_000


class VerifyMeaning(Quiet):
    """Compare the outputs of consecutive stages of one module."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] | None = None
        self.outputs: list[Tensor] | None = None
        self.earlier: ModuleOp | None = None

    def before(self, pass_: ModulePass, module: ModuleOp) -> None:
        if self.inputs is None:
            self.inputs, self.outputs = first_run(module)
        if isinstance(pass_, Differentiate) and self.outputs is not None:
            # From here on it is another function, of other arguments.
            self.inputs, self.outputs = by_autograd(in_float64(module), pass_, self.inputs)
        else:
            self.earlier = module.clone()

    def after(self, pass_: ModulePass, module: ModuleOp) -> None:
        if self.outputs is None:
            return
        assert self.inputs is not None
        if not holds(attn.func_of(module), self.inputs):  # the pass asks more of the sizes
            self.inputs, found = first_run(module)
            assert self.earlier is not None
            self.outputs = None if found is None else interpret(in_float64(self.earlier), self.inputs)
            if self.outputs is None:
                return
        try:
            outputs = interpret(in_float64(module), self.inputs)
        except Exception as error:
            raise PassVerifyError(f"after {pass_.name} the program cannot be interpreted: {error}") from error
        limit = tolerance(module, self.inputs)
        for n, (old, new) in enumerate(zip(self.outputs, outputs, strict=True)):
            difference = distance(old, new)
            if not difference <= limit:
                shapes = ", ".join(str(tuple(x.shape)) for x in self.inputs)
                name = attn.func_of(module).sym_name.data
                raise PassVerifyError(
                    f"the pass {pass_.name} changed result {n} of {name} by {difference:.3g}, more than rounding "
                    f"explains ({limit:.3g}), on inputs of shapes {shapes}; "
                    f"ATTNC_DUMP=<folder> keeps the IR around each pass"
                )
        self.outputs = outputs


def first_run(module: ModuleOp) -> tuple[list[Tensor], list[Tensor] | None]:
    """Inputs that the module accepts, and its outputs for them; None if no inputs were found."""
    wide = in_float64(module)
    inputs: list[Tensor] = []
    problem: object = "its guards hold for no small sizes"
    for sizes in itertools.islice(find_sizes(attn.func_of(module)), 4):
        inputs = random_inputs(attn.func_of(wide), sizes)
        try:
            return inputs, interpret(wide, inputs)
        except Exception as error:  # sizes that a call inside the function does not take
            problem = error
    log.warning("%s cannot be verified by interpretation: %s", attn.func_of(module).sym_name.data, problem)
    return inputs, None


def holds(func: attn.FuncOp, inputs: Sequence[Tensor]) -> bool:
    """Do these inputs meet the guards about sizes?"""
    sizes = bind_sizes(func, inputs)
    return all(evaluate(g.data, sizes) for g in func.guards if free_vars(g.data) <= sizes.keys() and not loads(g.data))


def in_float64(module: ModuleOp) -> ModuleOp:
    """A copy of the module that computes in float64, in its calls as well."""
    text = re.sub(r", (?:f32|bf16|f16)>", ", f64>", print_module(module))
    return parse_module(re.sub(r"\btorch\.(?:float32|bfloat16|float16)\b", "torch.float64", text))


def find_sizes(func: attn.FuncOp) -> Iterator[dict[str, int]]:
    """Small values of the size symbols for which the guards hold and no dimension is negative."""
    symbols = list(func.sizes())
    shapes = [s for a in func.args for s in attn.tensor_type(a).shape]
    conditions = [g.data for g in func.guards if not loads(g.data)]
    conditions += [ge(s, 0) for s in shapes if s.children]
    choices = [_BATCHES if _is_batch(func, s) else _LENGTHS for s in symbols]

    attempts = 0

    def extend(sizes: dict[str, int]) -> Iterator[dict[str, int]]:
        nonlocal attempts
        if len(sizes) == len(symbols):
            yield dict(sizes)
            return
        name = symbols[len(sizes)]
        # Equal lengths are common, so values already given come first.
        values = dict.fromkeys([*_lengths_of(sizes, symbols, choices), *choices[len(sizes)]])
        for value in values:
            attempts += 1
            if attempts > _ATTEMPTS:
                return
            trial = {**sizes, name: value}
            if all(evaluate(c, trial) for c in conditions if name in free_vars(c) <= trial.keys()):
                yield from extend(trial)

    yield from extend({})


def _lengths_of(sizes: dict[str, int], symbols: Sequence[str], choices: Sequence[tuple[int, ...]]) -> list[int]:
    mine = choices[len(sizes)]
    return [sizes[s] for s, c in zip(symbols, choices, strict=True) if s in sizes and c is mine]


def _is_batch(func: attn.FuncOp, symbol: str) -> bool:
    """Does the symbol stand in front of the last two dimensions of a tensor?"""
    argument, axis = func.sizes()[symbol]
    return axis < len(attn.tensor_type(func.args[argument]).shape) - 2


def random_inputs(func: attn.FuncOp, sizes: dict[str, int]) -> list[Tensor]:
    """The same inputs every time."""
    generator = torch.Generator().manual_seed(0)
    inputs: list[Tensor] = []
    for arg in func.args:
        type = attn.tensor_type(arg)
        shape = [int(evaluate(s, sizes)) for s in type.shape]
        dtype = to_torch(type.element)
        if name_of(type.element) in FLOATS:
            inputs.append(torch.randn(shape, dtype=dtype, generator=generator))
        elif dtype == torch.bool:
            inputs.append(torch.rand(shape, generator=generator) < 0.7)
        else:
            inputs.append(torch.randint(0, 5, shape, dtype=dtype, generator=generator))
    return inputs


def tolerance(module: ModuleOp, inputs: Sequence[Tensor]) -> float:
    """Rounding that a reordering of the same sums may cause, for values of order one."""
    text = print_module(module)
    # A call that rounds to a narrower type turns a last-bit difference before it into one of that type.
    narrow = [torch.bfloat16, torch.float16, torch.float32]
    calls = "".join(op.call.data for op in module.walk() if isinstance(op, attn.CallOp))
    eps = next((torch.finfo(d).eps for d in narrow if str(d) in calls), torch.finfo(torch.float64).eps)
    terms = max([n for x in inputs for n in x.shape], default=1) + 128
    scale = max([float(x.abs().max()) for x in inputs if x.is_floating_point() and x.numel()], default=1.0)
    products = 1 + text.count("attn.attend") + text.count("tile.launch")
    return eps * terms * 16 * products * max(scale, 1.0) ** 2


def distance(old: Tensor, new: Tensor) -> float:
    """The largest difference relative to the result's scale (at least one); infinite if shape or infinities differ."""
    if old.shape != new.shape:
        return float("inf")
    if not old.numel():
        return 0.0
    old, new = old.to(torch.float64), new.to(torch.float64)
    same = (old == new) | (old.isnan() & new.isnan())
    finite = old[old.isfinite()]
    scale = max(1.0, float(finite.abs().max()) if finite.numel() else 1.0)
    difference = torch.where(same, 0.0, (old - new).abs() / scale)
    return float(difference.nan_to_num(float("inf"), float("inf")).max())
