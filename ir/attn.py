"""Dialect ``attn``: what is computed.

Values are tensors whose sizes are expressions over named sizes.  ``attn.attend`` is the one attention op:
an iteration domain whose last dimension is the query row, index maps that say which element of each tensor
a point of the domain reads or writes, and per source of keys a mask and a score.  Rolls, window partitions,
residue classes and head groups are all index maps, so a pass that reorders tokens only rewrites maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xdsl.dialects.builtin import ArrayAttr, StringAttr, SymbolNameConstraint, UnitAttr
from xdsl.ir import Operation, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, Pure, SymbolOpInterface

from . import syntax
from .attend import AttendOp, Attention
from .attributes import ExprAttr, MapAttr, Source, SourceAttr, TensorType, TilesAttr, strings, tensor_type, where
from .expr import Const, Expr, Op, Var, free_vars
from .syntax import VerifyException

__all__ = [
    "AttendOp",
    "Attention",
    "CallOp",
    "FuncOp",
    "ReorderOp",
    "ReturnOp",
    "Source",
    "SourceAttr",
    "TensorType",
    "TilesAttr",
    "func_of",
    "tensor_type",
]


@irdl_op_definition
class FuncOp(IRDLOperation):
    """A compiled function: a straight-line graph of attention and calls.

    A size symbol is bound by the first argument dimension whose size is that symbol alone.  ``guards`` are
    facts about sizes that the compilation relied on.
    """

    name = "attn.func"
    sym_name = prop_def(SymbolNameConstraint())
    arg_names = prop_def(ArrayAttr[StringAttr])
    guards = prop_def(ArrayAttr[ExprAttr])
    body = region_def("single_block")

    traits = traits_def(IsolatedFromAbove(), SymbolOpInterface())

    def __init__(
        self, name: str, arg_names: Sequence[str], arg_types: Sequence[TensorType], guards: Sequence[Expr] = ()
    ):
        super().__init__(
            properties={
                "sym_name": StringAttr(name),
                "arg_names": ArrayAttr(strings(arg_names)),
                "guards": ArrayAttr([ExprAttr(g) for g in guards]),
            },
            regions=[syntax.argument_region(arg_names, arg_types)],
        )

    @property
    def args(self) -> Sequence[SSAValue]:
        return self.body.block.args

    @property
    def names(self) -> list[str]:
        return [a.data for a in self.arg_names]

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Size symbol -> (argument, axis) that binds it."""
        bound: dict[str, tuple[int, int]] = {}
        for a, arg in enumerate(self.args):
            for axis, size in enumerate(tensor_type(arg).shape):
                if isinstance(size, Var):
                    bound.setdefault(size.name, (a, axis))
        return bound

    def require(self, guards: Iterable[Expr]) -> None:
        """Add guards; those that are there already are not repeated."""
        self.guards = ArrayAttr(list(dict.fromkeys([*self.guards.data, *map(ExprAttr, guards)])))

    def needed(self) -> list[Operation]:
        """The ops that the results depend on, in order; ops are pure, so the rest is dead.

        Calls that bind a size stay: any later type or index map may use it.
        """
        live: set[SSAValue] = set()
        kept: list[Operation] = []
        binding = self.binding_calls()
        for op in reversed(list(self.body.block.ops)):
            if isinstance(op, ReturnOp) or op in binding or any(r in live for r in op.results):
                live.update(op.operands)
                kept.append(op)
        return kept[::-1]

    def binding_calls(self) -> list[CallOp]:
        """The calls with a result dimension that binds a new size."""
        bound = set(self.sizes())
        binding: list[CallOp] = []
        for op in self.body.block.ops:
            if isinstance(op, CallOp):
                new = {s.name for v in op.outputs for s in tensor_type(v).shape if isinstance(s, Var)} - bound
                if new:
                    binding.append(op)
                    bound |= new
        return binding

    @property
    def last(self) -> ReturnOp:
        """What the function ends in."""
        last = self.body.block.last_op
        assert isinstance(last, ReturnOp)
        return last

    def residuals(self) -> list[SSAValue]:
        """What a gradient needs besides the arguments: two results of every needed attention, then all that is kept."""
        needed = self.needed()
        residuals = [r for op in needed if isinstance(op, AttendOp) for r in op.residuals]
        return residuals + [op.outputs[0] for op in needed if isinstance(op, CallOp) and op.is_kept]

    @property
    def facts(self) -> tuple[Expr, ...]:
        """The guards about sizes that still have a name; the others hold by the way the types are written.

        That a size is not small is no help to an analysis, but hides the small examples that it tries first.
        """
        bound = self.sizes().keys()
        return tuple(g.data for g in self.guards if free_vars(g.data) <= bound and not _at_least(g.data))

    def verify_(self) -> None:
        if len(self.names) != len(self.args):
            raise VerifyException(f"attn.func has {len(self.args)} arguments but {len(self.names)} names")
        bound = set(self.sizes())
        for op in self.body.block.ops:
            for value in op.results:
                if isinstance(value.type, TensorType):
                    if isinstance(op, CallOp):
                        bound.update(s.name for s in value.type.shape if isinstance(s, Var))
                    loose = set().union(*(free_vars(s) for s in value.type.shape)) - bound
                    if loose:
                        raise VerifyException(
                            f"{op.name} gives a tensor of sizes {value.type.sizes.text()}, but no argument has a "
                            f"dimension of size {', '.join(sorted(loose))} to bind it{where(op)}"
                        )
        if not isinstance(self.body.block.last_op, ReturnOp):
            raise VerifyException("attn.func must end in attn.return")

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        syntax.print_arguments(printer, self.args, self.names)
        if self.guards.data:
            printer.print_string(" guards [")
            printer.print_list(self.guards, lambda g: printer.print_string_literal(g.text()))
            printer.print_string("]")
        printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" ")
        printer.print_region(self.body, print_entry_block_args=False, print_empty_block=False)

    @classmethod
    def parse(cls, parser: Parser) -> FuncOp:
        name = parser.parse_symbol_name()
        args, names = syntax.parse_arguments(parser)
        guards: list[ExprAttr] = []
        if parser.parse_optional_keyword("guards"):
            guards = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: ExprAttr.parse_text(parser))
        attributes = parser.parse_optional_attr_dict_with_keyword()
        body = parser.parse_region(args)
        op = FuncOp.__new__(FuncOp)
        IRDLOperation.__init__(
            op,
            properties={
                "sym_name": name,
                "arg_names": ArrayAttr(strings(names)),
                "guards": ArrayAttr(guards),
            },
            attributes=attributes.data if attributes else {},
            regions=[body],
        )
        return op


@irdl_op_definition
class ReturnOp(IRDLOperation):
    name = "attn.return"
    values = var_operand_def(TensorType)
    traits = traits_def(IsTerminator())
    assembly_format = "$values attr-dict `:` type($values)"

    def __init__(self, values: Sequence[SSAValue]):
        super().__init__(operands=[values])


@irdl_op_definition
class CallOp(IRDLOperation):
    """A call to PyTorch, for all that is not attention.

    ``call`` is Python text over the operands ``x0, x1, ...``, size names and ``device`` (that of the
    function's first tensor), built from literals, tuples, lists and attribute paths of ``torch``:
    ``torch.mean(x0, dim=-2)``.  A result dimension that is a new size symbol is bound when the call returns.
    The result of a call that is ``kept`` is saved for the gradient, which makes those of others again.
    """

    name = "attn.call"
    call = prop_def(StringAttr)
    inputs = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)
    assembly_format = "$call `(` $inputs `)` attr-dict `:` functional-type($inputs, $outputs)"

    def __init__(self, call: str, inputs: Sequence[SSAValue], result_types: Sequence[TensorType]):
        super().__init__(properties={"call": StringAttr(call)}, operands=[inputs], result_types=[result_types])

    @property
    def is_kept(self) -> bool:
        return "kept" in self.attributes

    def keep(self) -> None:
        self.attributes["kept"] = UnitAttr()


@irdl_op_definition
class ReorderOp(IRDLOperation):
    """A bijective rearrangement: ``output[x0, x1, ...] = input[index(x0, x1, ...)]``.

    ``inverse`` maps the input's index (again named ``x0, x1, ...``) to the output's.
    """

    name = "attn.reorder"
    input = operand_def(TensorType)
    index = prop_def(MapAttr)
    inverse = prop_def(MapAttr)
    output = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = "$input `index` $index `inverse` $inverse attr-dict `:` type($input) `->` type($output)"

    def __init__(self, input: SSAValue, index: Sequence[Expr], inverse: Sequence[Expr], result_type: TensorType):
        super().__init__(
            operands=[input],
            properties={"index": MapAttr(tuple(index)), "inverse": MapAttr(tuple(inverse))},
            result_types=[result_type],
        )

    def verify_(self) -> None:
        ranks = len(tensor_type(self.input).shape), len(tensor_type(self.output).shape)
        if (len(self.index.data), len(self.inverse.data)) != ranks:
            raise VerifyException(
                f"attn.reorder from rank {ranks[0]} to rank {ranks[1]} has an index of {len(self.index.data)} "
                f"and an inverse of {len(self.inverse.data)} expressions{where(self)}"
            )


def func_of(module: Operation) -> FuncOp:
    """The one function of a module."""
    for op in module.walk():
        if isinstance(op, FuncOp):
            return op
    raise VerifyException("the module holds no attn.func")


def _at_least(e: Expr) -> bool:
    """Is this a lower bound beyond 1?"""
    match e:
        case Op(">=", (_, Const(int(bound)))):
            return bound > 1
    return False
