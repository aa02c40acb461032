"""Turn a function into its gradient.

before::

    attn.func @f(%q, %k, %v) {
      %o, %lse = attn.attend ...
      attn.return %o
    }

after, for ``differentiate{wanted=q,v}``::

    attn.func @f_gradient(%q, %k, %v, %out, %lse, %d_result) {
      %d_q, %d_v = attn.attend_gradient of "query", "value0" ... given %out, %lse d_out %d_result
      attn.return %d_q, %d_v
    }

The arguments are those of ``f``, two results of each of its attentions (kept from the forward run, since to compute
them again costs half as much as the gradient), the results of calls that are ``kept``, and the gradient of each given
result.  Of other calls and reorders, what a gradient reads is computed again.  Gradients run backwards through ``f``,
along paths from a wanted argument to a given result only, and several gradients of one value are summed.

Legality: the chain rule.  A call that draws random numbers would draw others the second time; it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from ...ir import attn
from ...ir.attributes import tensor_type, where
from ...ir.calls import draws_random
from ...ir.derivative import derivative
from ...ir.dtypes import SMOOTH, name_of
from ...ir.errors import AttncError
from ...ir.expr import Const, Expr, Var, inners, loads
from ...ir.gradient import AttendGradientOp, CallGradientOp, operand_names
from .call_gradients import CallGradient, call_gradient, is_constant
from .kernel_builder import LN_2


class DifferentiationError(AttncError):
    """A function without a gradient that could be computed, or a gradient that makes no sense."""


@dataclass(frozen=True)
class Differentiate(ModulePass):
    """Options: ``wanted`` names arguments, ``given`` numbers results; empty means all that are floats."""

    name = "differentiate"
    wanted: tuple[str, ...] = ()
    given: tuple[int, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        func = attn.func_of(op)
        wanted = [func.args[n] for n in self.wanted_of(func)]
        Rewriter.replace_op(func, _Gradient(func, wanted, self.given_of(func)).build(), [])

    def wanted_of(self, func: attn.FuncOp) -> list[int]:
        """Positions of the wanted arguments.  Raises :class:`DifferentiationError`."""
        for name in self.wanted:
            if name not in func.names:
                known = ", ".join(func.names)
                raise DifferentiationError(f"{func.sym_name.data} has no argument {name}; it has {known}")
            _check_smooth(func.args[func.names.index(name)], f"the argument {name}")
        if self.wanted:
            return [func.names.index(name) for name in self.wanted]
        return [n for n, arg in enumerate(func.args) if is_smooth(arg)]

    def given_of(self, func: attn.FuncOp) -> list[int]:
        """Positions of the given results.  Raises :class:`DifferentiationError`."""
        results = func.last.values
        for n in self.given:
            if not 0 <= n < len(results):
                raise DifferentiationError(f"{func.sym_name.data} has no result {n}; it has {len(results)}")
            _check_smooth(results[n], f"result {n}")
        return list(self.given) or [n for n, value in enumerate(results) if is_smooth(value)]


def is_smooth(value: SSAValue) -> bool:
    """May there be a gradient of this tensor?"""
    return name_of(tensor_type(value).element) in SMOOTH


def _check_smooth(value: SSAValue, what: str) -> None:
    if not is_smooth(value):
        raise DifferentiationError(f"{what} holds {name_of(tensor_type(value).element)}, which has no gradient")


class _Gradient:
    """Builds the gradient function; ``old`` names what belongs to the given one."""

    def __init__(self, old: attn.FuncOp, wanted: Sequence[SSAValue], given: Sequence[int]):
        self.old, self.wanted = old, wanted
        self.ops = old.needed()
        residuals, seeds = old.residuals(), [old.last.values[n] for n in given]
        kept = [("out", "weights" if op.units else "lse") for op in self.ops if isinstance(op, attn.AttendOp)]
        products = [("product",) for op in self.ops if isinstance(op, attn.CallOp) and op.is_kept]
        names = _fresh([*_numbered(kept), *_numbered(products), *_result_names(old, given)], old)
        types = [tensor_type(v) for v in (*old.args, *residuals, *seeds)]
        self.new = attn.FuncOp(
            f"{old.sym_name.data}_gradient", [*old.names, *names], types, [g.data for g in old.guards]
        )
        args = self.new.args
        # old value -> its equal here
        self.values: dict[SSAValue, SSAValue] = dict(zip([*old.args, *residuals], args, strict=False))
        # old value -> gradients whose sum is its gradient
        self.terms: dict[SSAValue, list[SSAValue]] = {}
        self.active = _active(self.ops, wanted)
        for value, gradient in zip(seeds, args[len(old.args) + len(residuals) :], strict=True):
            self._receive(value, gradient)

    def build(self) -> attn.FuncOp:
        bound = self.new.sizes()
        for call in self.old.binding_calls():  # before their users, and all of them, for sizes have no def-use chains
            if any(s.name not in bound for v in call.outputs for s in tensor_type(v).shape if isinstance(s, Var)):
                self._again(call.outputs[0])
        for op in reversed(self.ops):
            match op:
                case attn.AttendOp():
                    self._attend(op)
                case attn.CallOp():
                    self._call(op)
                case attn.ReorderOp():
                    self._reorder(op)
        self._emit(attn.ReturnOp([self._gradient(v) or self._zeros(v) for v in self.wanted]))
        return self.new

    # ---- one op ---------------------------------------------------------------------------------------------

    def _attend(self, op: attn.AttendOp) -> None:
        d_out, d_lse = self._gradient(op.out), self._gradient(op.lse)
        if d_out is None and d_lse is None:
            return
        operands = dict(zip(operand_names(len(op.keys), op.captured), op.operands, strict=True))
        wanted = [n for n in dependencies(op, d_out is not None) if operands[n] in self.active]
        if not wanted:
            return
        new = AttendGradientOp(
            self._again(op.query),
            [self._again(k) for k in op.keys],
            [self._again(v) for v in op.values],
            {name: self._again(v) for name, v in op.captured.items()},
            out=self.values[op.out],
            rows=self.values[op.residuals[1]],
            d_out=d_out,
            d_lse=d_lse,
            wanted=wanted,
            attributes=dict(op.attributes),
            **op.shape,
        )
        self._emit(new)
        for name, gradient in zip(wanted, new.gradients, strict=True):
            self._receive(operands[name], gradient)

    def _call(self, op: attn.CallOp) -> None:
        gradients = {n: g for n, v in enumerate(op.outputs) if (g := self._gradient(v)) is not None}
        wanted = [n for n, v in enumerate(op.inputs) if v in self.active]
        if not gradients or not wanted:
            return
        for n in list(wanted):
            simple = call_gradient(op, n)
            if simple is not None:
                wanted.remove(n)
                self._receive(op.inputs[n], self._simple(op, simple, gradients[0], op.inputs[n]))
        if not wanted:
            return
        _check_repeatable(op)
        inputs = [self._again(v) for v in op.inputs]
        new = CallGradientOp(op.call.data, inputs, list(gradients), list(gradients.values()), wanted)
        self._emit(new, op)
        for n, gradient in zip(wanted, new.outputs, strict=True):
            self._receive(op.inputs[n], gradient)

    def _simple(self, op: attn.CallOp, found: CallGradient, gradient: SSAValue, like: SSAValue) -> SSAValue:
        if found.text == "x0":
            return gradient
        reads = [] if found.reads is None else [self._again(op.inputs[found.reads])]
        return self._call_of(found.text, [gradient, *reads], like, op)

    def _reorder(self, op: attn.ReorderOp) -> None:
        gradient = self._gradient(op.output)
        if gradient is not None and op.input in self.active:
            new = attn.ReorderOp(gradient, op.inverse.data, op.index.data, tensor_type(op.input))
            self._emit(new, op)
            self._receive(op.input, new.output)

    # ---- values and gradients -------------------------------------------------------------------------------

    def _again(self, value: SSAValue) -> SSAValue:
        """The equal of an old value here; computed again if it has none yet."""
        if value not in self.values:
            op = value.owner
            if isinstance(op, attn.AttendOp):
                return self._lse(op)
            assert isinstance(op, attn.CallOp | attn.ReorderOp)
            if isinstance(op, attn.CallOp):
                _check_repeatable(op)
            new = op.clone({v: self._again(v) for v in op.operands})
            self._emit(new, op)
            for old, again in zip(op.results, new.results, strict=True):
                self.values[old], again.name_hint = again, old.name_hint
        return self.values[value]

    def _lse(self, op: attn.AttendOp) -> SSAValue:
        """The log-sum-exp of rows whose weights are kept in its place."""
        assert op.weights is not None
        peak = "x0[0]" if op.units and op.units.data == "natural" else f"x0[0] * {LN_2!r}"
        text = f"torch.where(x0[1] > 0, {peak} - torch.log(x0[1]), -inf)"
        self.values[op.lse] = lse = self._call_of(text, [self.values[op.weights]], op.lse, op)
        lse.name_hint = op.lse.name_hint
        return lse

    def _receive(self, value: SSAValue, gradient: SSAValue) -> None:
        if value in self.active:
            if not gradient.name_hint and value.name_hint:
                gradient.name_hint = f"d_{value.name_hint}"
            self.terms.setdefault(value, []).append(gradient)

    def _gradient(self, value: SSAValue) -> SSAValue | None:
        """The gradient of an old value whose users are all done; None if nothing depends on it."""
        terms = self.terms.get(value, [])
        if len(terms) > 1:
            names = " + ".join(f"x{n}" for n in range(len(terms)))
            total = self._call_of(names, terms, value)
            self.terms[value] = terms = [total]
        return terms[0] if terms else None

    def _zeros(self, value: SSAValue) -> SSAValue:
        return self._call_of("torch.zeros_like(x0)", [self.values[value]], value)

    def _call_of(self, text: str, inputs: Sequence[SSAValue], like: SSAValue, of: Operation | None = None) -> SSAValue:
        call = attn.CallOp(text, inputs, [tensor_type(like)])
        if like.name_hint:
            call.outputs[0].name_hint = f"d_{like.name_hint}"
        owner = of or like.owner
        self._emit(call, owner if isinstance(owner, Operation) else None)
        return call.outputs[0]

    def _emit(self, op: Operation, of: Operation | None = None) -> None:
        if of is not None and "at" in of.attributes:
            op.attributes.setdefault("at", of.attributes["at"])
        self.new.body.block.add_op(op)


def _active(ops: Iterable[Operation], wanted: Sequence[SSAValue]) -> set[SSAValue]:
    """The values that depend on a wanted argument in a way that has a gradient."""
    active = set(wanted)
    for op in ops:
        if isinstance(op, attn.CallOp) and is_constant(op):
            continue
        sources: Iterable[SSAValue] = op.operands
        if isinstance(op, attn.AttendOp):
            names = dict(zip(operand_names(len(op.keys), op.captured), op.operands, strict=True))
            sources = [names[n] for n in dependencies(op)]
            if not active.isdisjoint(names[n] for n in dependencies(op, out=False)):
                active.add(op.lse)
            results: Sequence[SSAValue] = [op.out]
        else:
            results = op.results
        if not active.isdisjoint(sources):
            active.update(r for r in results if is_smooth(r))
    return active


def dependencies(op: attn.Attention, out: bool = True) -> list[str]:
    """The operands, as :class:`AttendGradientOp` names them, on which ``lse`` (and ``out``) depends smoothly."""
    dot = Var("dot", "float")
    bodies = [s.score.body for s in op.source_list]
    live = {f"key{n}" for n, body in enumerate(bodies) if not _is_zero(derivative(body, dot))}
    if live:
        live.add("query")
    if out:
        live |= {f"value{n}" for n in range(len(bodies))}
    for body in bodies:
        for product in inners(body):
            if not _is_zero(derivative(body, product)):
                live |= {f"capture:{load.tensor}" for load in loads(product)}
        for load in loads(body):
            if load.kind == "float" and not _is_zero(derivative(body, load)):
                live.add(f"capture:{load.tensor}")
    return [name for name in operand_names(len(bodies), op.captured) if name in live]


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 0


def _check_repeatable(op: attn.CallOp) -> None:
    if draws_random(op.call.data):
        raise DifferentiationError(
            f"the gradient needs {op.call.data!r} a second time{where(op)}, but it draws random numbers; draw "
            f"them outside the compiled function and pass them as an argument"
        )


# ---- names of arguments -------------------------------------------------------------------------------------


def _numbered(stems: Sequence[Sequence[str]]) -> list[str]:
    return [s if len(stems) == 1 else f"{s}{n}" for n, names in enumerate(stems) for s in names]


def _result_names(func: attn.FuncOp, given: Sequence[int]) -> list[str]:
    return [f"d_result{n}" if len(func.last.values) > 1 else "d_result" for n in given]


def _fresh(names: Iterable[str], func: attn.FuncOp) -> list[str]:
    """The names, with underscores where the function has such an argument or size."""
    taken = {*func.names, *func.sizes()}
    fresh: list[str] = []
    for name in names:
        while name in taken:
            name += "_"
        taken.add(name)
        fresh.append(name)
    return fresh
