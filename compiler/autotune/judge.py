"""What a program must give, by its function as written in float64, and the verdict on what a candidate gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..validation import Entry, compare, cotangent, scale
from .subject import Program, Subject, Tensors


@dataclass
class Expected:
    """Right results with their labels, outputs first: in float64 (``wide``), and as the function gives them.

    ``single`` are those in float32 of a function in float64; ``clean`` says that the inputs are finite.
    """

    outputs: int
    labels: list[str]
    wide: Tensors
    narrow: Tensors
    single: Tensors
    clean: bool

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def expect(subject: Subject, backward: bool) -> Expected:
    """Run the function as written, in its own precision and in float64.

    Raises :class:`~attnc.compiler.oracle.EagerTooLargeError` rather than fill the memory.
    """
    program, inputs = subject.program, subject.inputs
    narrow = _run(subject, inputs, backward, double=False)  # first: it needs the least memory
    wide = _run(subject, inputs, backward, double=True)
    single: Tensors = []
    if program.dtype == "f64":
        single = _run(subject, [x.float() if x.dtype == torch.float64 else x for x in inputs], backward, double=False)
    outputs = len(wide) - (len(program.wanted) if backward else 0)
    labels = [f"output {n}" for n in range(outputs)]
    labels += [f"gradient of input {n}" for n in program.wanted] if backward else []
    clean = all(bool(x.isfinite().all()) for x in inputs if x.is_floating_point())
    return Expected(outputs, labels, wide, narrow, single, clean)


def cotangents(program: Program, outputs: Sequence[torch.Tensor]) -> Tensors:
    """The gradients that the outputs are given."""
    return [cotangent(outputs[n], n) for n in program.given]


def _run(subject: Subject, inputs: Tensors, backward: bool, *, double: bool) -> Tensors:
    program = subject.program
    wanted = program.wanted if backward else ()
    leaves = [x.double() if double and x.is_floating_point() else x for x in (i.detach() for i in inputs)]
    leaves = [x.requires_grad_() if n in wanted else x for n, x in enumerate(leaves)]
    with torch.enable_grad() if backward else torch.no_grad():
        outputs = subject.eager(leaves, double)
    if not backward:
        return outputs
    roots = [outputs[n] for n in program.given]
    given = cotangents(program, outputs)
    pairs = [(r, g) for r, g in zip(roots, given, strict=True) if r.requires_grad]
    found = torch.autograd.grad(
        [r for r, _ in pairs], [leaves[n] for n in wanted], [g for _, g in pairs], allow_unused=True
    )
    gradients = [torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(wanted, found, strict=True)]
    return [x.detach() for x in [*outputs, *gradients]]


def verdict(expected: Expected, direction: str, values: Sequence[torch.Tensor]) -> list[Entry]:
    """Compare a candidate's outputs, or its gradients, by the limits of :func:`attnc.validate`."""
    first = 0 if direction == "forward" else expected.outputs
    last = expected.outputs if direction == "forward" else len(expected.labels)
    shared = None
    if direction == "backward":
        shared = max((scale(x) for x in expected.wide[first:]), default=0.0)
    return [
        compare(
            expected.labels[n],
            values[n - first],
            expected.narrow[n],
            expected.wide[n],
            expected.single[n] if expected.single else None,
            clean=expected.clean,
            shared=shared,
        )
        for n in range(first, last)
    ]
