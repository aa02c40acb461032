"""Lower ``attn.attend_gradient`` to tile kernels that recompute the pairs.

before::

    %dq, %dk, %dv = attn.attend_gradient of "query", "key0", "value0" over "b < B, h < H, i < N" ...

after::

    %delta = tile.launch @f_delta(%o, %do)             // rows i: sum_e out * d_out
    %dq = tile.launch @f_query(%q, %k, %v, ...)        // rows i, loop over keys j
    %dk, %dv = tile.launch @f_key0(%q, %k, %v, ...)    // rows j, loop over queries i

The formulas are those of FlashAttention's backward (Dao et al. 2022, algorithm 4; Dao 2023, section 3.2) with the
derivative of the score, found symbolically, in place of a scale.  A key kernel walks the queries that see its keys:
``key-ranges`` limits that loop by the same index sets with rows and keys swapped.

With ``fused``, the key kernels add up the gradient of the queries too: 5 products for each pair instead of 7, in
exchange for tiles of keys that run in order.  Weights that the attention should have kept, and did not, take one kernel
more, ``f_weights``.

Legality: none needed; every ``attn.attend_gradient`` with ``tiles`` has this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from ...ir import attn, tile
from ...ir.expr import Expr, Load
from ...ir.gradient import AttendGradientOp
from . import gradient_bands
from .gradient_bands import BandTarget
from .gradient_bodies import Written, delta_kernel, key_kernel, query_kernel
from .gradient_captures import BOTH, KEY, NEITHER, ROW, PairTarget, pair_kernels, reads, role_of
from .gradient_frame import Frame
from .gradient_problem import Problem
from .gradient_targets import Target, total, zeros
from .gradient_weights import weights_kernel
from .inner_products import products_of
from .kernel_builder import wants_weights


@dataclass(frozen=True)
class GradientKernels(ModulePass):
    """Options: ``narrow`` rounds what enters a product to its 16-bit partner's type, as tensor cores need;
    ``fused`` computes the gradient of the queries in the key kernels."""

    name = "gradient-kernels"
    narrow: bool = False
    fused: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for func in [f for f in op.walk() if isinstance(f, attn.FuncOp)]:
            gradients = [g for g in func.body.block.ops if isinstance(g, AttendGradientOp)]
            base = func.sym_name.data.removesuffix("_gradient")
            for n, gradient in enumerate(gradients):
                if gradient.tiles is not None:
                    name = f"{base}_{n}" if len(gradients) > 1 else base
                    _Lowering(op, gradient, name, func.facts, self).run()


class _Lowering:
    """Replaces one op by launches."""

    def __init__(
        self, module: ModuleOp, op: AttendGradientOp, name: str, facts: tuple[Expr, ...], options: GradientKernels
    ):
        self.module = module
        self.op = op
        self.name = name
        self.options = options
        self.problem = Problem.of(op, facts)
        self.parts: dict[str, list[SSAValue]] = {w: [] for w in op.wanted_list}
        self.given: dict[str, SSAValue] = {}  # what was measured of each row
        self.names = set(tile.kernels_of(module))
        self.products = products_of(op)
        self.tensors = [name for name in op.captured if f"capture:{name}" in self.parts]

    def run(self) -> None:
        op, name = self.op, self.name
        measured: list[tile.LaunchOp] = []
        if not op.units and wants_weights(op):
            measured.append(self._launch(weights_kernel(self.problem, f"{name}_weights")))
            self.given["weights"] = measured[-1].outputs[0]
        if op.d_out is not None and op.normalised:
            measured.append(self._launch(delta_kernel(self.problem, f"{name}_delta")))
            self.given["delta"] = measured[-1].outputs[0]
        sources = range(len(op.keys))
        by_row = any(self._reads(n, [ROW]) for n in sources)
        dotted = [n for n in sources if self.problem.depends_on_dot(n)]
        query = "query" in self.parts and bool(dotted)
        keys = [self._wanted_of(n) for n in sources]
        banded = any(gradient_bands.wanted(self.problem, n, self.tensors) for n in sources)
        fused = query and self.options.fused and not self.products and not by_row and all(keys[n] for n in dotted)

        # a sum whose element depends on neither row nor key fits both kernels
        rows = [ROW, NEITHER] if (query and not fused) or by_row else [ROW]
        along_row = [rows if keys[n] or self._reads(n, [KEY]) else [ROW, NEITHER] for n in sources]
        done: dict[int, list[Load]] = {n: [] for n in sources}  # whose pairs are added up by another kernel
        if (query and not fused) or banded or any(self._reads(n, along_row[n]) for n in sources):
            frame, written = self._query_kernel(query and not fused, along_row)
            self._built(frame, written)
            self._note(written, done)
        for n in sources:
            along_column = [c for c in (KEY, NEITHER) if c not in along_row[n]]
            if keys[n] or self._reads(n, along_column):
                wanted = keys[n] + (["query"] if fused and n in dotted else [])
                frame, written = self._key_kernel(n, wanted, along_column, done[n])
                self._built(frame, written)
                self._note(written, done)
        for n in sources:
            if len(done[n]) == len(self._reads(n, [BOTH])):
                continue
            left = pair_kernels(self.problem, name, n, self.tensors, self.given, done[n], by_key=self.options.fused)
            for frame, targets in left:
                self._built(frame, [(role_of(t.read), t) for t in targets])
        self._replace()
        for launch in measured:
            if not launch.outputs[0].uses.get_length():
                Rewriter.erase_op(tile.kernels_of(self.module)[launch.kernel.root_reference.data])
                Rewriter.erase_op(launch)

    @staticmethod
    def _note(written: Written, done: dict[int, list[Load]]) -> None:
        for _, to in written:
            if isinstance(to, PairTarget):
                done[to.source].append(to.read)

    def _query_kernel(self, query: bool, classes: Sequence[Sequence[str]]) -> tuple[Frame, Written]:
        name, narrow = f"{self.name}_query", self.options.narrow
        return query_kernel(
            self.problem,
            name,
            self.given,
            narrow,
            query=query,
            tensors=self.tensors,
            classes=classes,
            patches=not self.options.fused,
        )

    def _key_kernel(
        self, n: int, wanted: Sequence[str], classes: Sequence[str], done: Sequence[Load]
    ) -> tuple[Frame, Written]:
        name, narrow = f"{self.name}_key{n}", self.options.narrow
        return key_kernel(
            self.problem,
            name,
            self.given,
            narrow,
            n,
            wanted=wanted,
            tensors=self.tensors,
            classes=classes,
            done=done,
            whole=self.options.fused and self.problem.whole and not self.products,
            lines=self.options.fused,
            patches=not self.options.fused,
        )

    def _wanted_of(self, n: int) -> list[str]:
        """Which of key and value of source ``n`` have a gradient other than zero that is wanted."""
        roles = ["key"] if self.problem.depends_on_dot(n) else []
        roles += ["value"] if self.op.d_out is not None else []
        return [role for role in roles if f"{role}{n}" in self.parts]

    def _reads(self, n: int, classes: Sequence[str]) -> list[Load]:
        return reads(self.problem, n, self.tensors, classes)

    def _built(self, frame: Frame, written: Sequence[tuple[str, Target | PairTarget | BandTarget]]) -> None:
        """Launch a kernel that writes the gradients of these operands."""
        launch = self._launch(frame)
        for (role, target), value in zip(written, launch.outputs, strict=True):
            ops, value = target.finish(value, frame.problem)
            self._insert(ops)
            self.parts[role].append(value)

    def _launch(self, frame: Frame) -> tile.LaunchOp:
        kernel, launch = frame.close(self.names)
        self.module.body.block.add_op(kernel)
        self._insert([launch])
        return launch

    def _insert(self, ops: Sequence[Operation]) -> None:
        for new in ops:
            if "at" in self.op.attributes:
                new.attributes["at"] = self.op.attributes["at"]
            Rewriter.insert_op(new, InsertPoint.before(self.op))

    def _replace(self) -> None:
        results = []
        for role, old in zip(self.op.wanted_list, self.op.gradients, strict=True):
            if self.parts[role]:
                ops, value = total(self.parts[role], attn.tensor_type(old))
            else:
                ops = [zeros(self.op.by_name[role])]
                value = ops[0].results[0]
            self._insert(ops)
            value.name_hint = old.name_hint or value.name_hint
            results.append(value)
        Rewriter.replace_op(self.op, [], results)
