"""Are gradients the derivatives of what is computed?  Finite differences in float64, no oracle needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.autograd.gradcheck import GradcheckError

MOST_ELEMENTS = 512  # of an input or an output: up to here every entry of the Jacobian is compared
STEP = 1e-6
DIRECTIONS = 4
MOST_DEVIATION = 1e-5  # rounding makes 1e-8 of it or so


@dataclass(frozen=True)
class GradientCheck:
    """The verdict on one input.

    ``deviation`` is the largest one, over a few random directions, between the derivative and the finite difference,
    as a fraction of the latter where that is above 1.  ``ok``: it is small, and ``torch.autograd.gradcheck`` agrees.
    That alone is not enough: its tolerance for the projection of a large Jacobian lets a factor of 2 pass.
    """

    name: str
    ok: bool
    deviation: float
    method: str  # "every entry", or "a random projection" of a large Jacobian
    note: str = ""

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "WRONG"
        return f"{self.name}  {self.deviation:.3g}  {verdict}  ({self.method})" + (
            f"  {self.note}" if self.note else ""
        )


Function = Callable[..., Sequence[torch.Tensor]]


def check_gradients(fn: Function, inputs: Sequence[torch.Tensor], names: Sequence[str]) -> list[GradientCheck]:
    """Check the gradients of ``fn``, which gives floating tensors, by each of ``inputs``, float64 leaves."""
    outputs = fn(*inputs)
    return [_check(fn, inputs, n, name, sum(o.numel() for o in outputs)) for n, name in enumerate(names)]


def _check(fn: Function, inputs: Sequence[torch.Tensor], n: int, name: str, size: int) -> GradientCheck:
    def of_one(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # the others keep their need of a gradient, so that one backward program serves all checks
        return tuple(fn(*inputs[:n], x, *inputs[n + 1 :]))

    fast = max(inputs[n].numel(), size) > MOST_ELEMENTS
    method = "a random projection" if fast else "every entry"
    deviation = _deviation(of_one, inputs[n])
    ok, note = deviation <= MOST_DEVIATION, ""
    try:
        torch.autograd.gradcheck(of_one, (inputs[n],), eps=STEP, fast_mode=fast, check_undefined_grad=False)
    except GradcheckError as error:
        ok, note = False, str(error).strip().partition("\n")[0]
    return GradientCheck(name, ok, deviation, method, note)


def _deviation(fn: Callable[[torch.Tensor], Sequence[torch.Tensor]], x: torch.Tensor) -> float:
    generator = torch.Generator(x.device).manual_seed(0)

    def random(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)

    worst = 0.0
    for _ in range(DIRECTIONS):
        towards = random(x)
        outputs = fn(x)
        weights = [random(y) for y in outputs]
        (gradient,) = torch.autograd.grad(outputs, [x], weights, allow_unused=True)
        exact = 0.0 if gradient is None else float((gradient * towards).sum())
        with torch.no_grad():
            ahead, behind = fn(x + STEP * towards), fn(x - STEP * towards)
        steps = zip(ahead, behind, weights, strict=True)
        measured = sum(float(((a - b) * w).sum()) for a, b, w in steps) / (2 * STEP)
        gap = abs(exact - measured) / max(1.0, abs(measured))
        worst = gap if not gap <= worst else worst  # NaN is the worst
    return worst
