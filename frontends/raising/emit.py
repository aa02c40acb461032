"""Plans as a module of the ``attn`` dialect."""

from __future__ import annotations

import keyword
import re

from xdsl.dialects.builtin import DictionaryAttr, ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue

from ...ir.attn import AttendOp, CallOp, FuncOp, ReorderOp, ReturnOp, Source, TensorType
from ...ir.attributes import LINES, Dim
from ...ir.calls import is_product
from ...ir.dtypes import element, from_torch
from ...ir.expr import OPS, Const, Expr, Lambda, Load, Var, free_vars, kind_of, op, rewrite
from ...ir.text import verify
from ..errors import UnsupportedOpError
from ..graph import Graph, Input, Node
from ..locate import with_text
from .gates import text as gate_text
from .lines import lines_of
from .partition import AttendPlan, CallPlan, Partition, ReorderPlan
from .plan import Gate, SourcePlan
from .values import Values

_NAMES = ("dot", "inf", "nan", "d", "e", "i", "j", "device", "torch", "bool")
_RESERVED = frozenset((*OPS, *keyword.kwlist, *_NAMES))


def _keep_products(func: FuncOp) -> None:
    """Products that attentions are made of are kept for gradients, as eager keeps them; the rest is made again."""
    seen: set[SSAValue] = set()
    values = [v for op in func.body.block.ops if isinstance(op, AttendOp) for v in (op.query, *op.keys, *op.values)]
    while values:
        if (value := values.pop()) in seen:
            continue
        seen.add(value)
        op = value.owner
        if isinstance(op, CallOp | ReorderOp):
            values += op.operands
        if isinstance(op, CallOp) and len(op.outputs) == 1 and is_product(op.call.data):
            op.keep()


class Emitter:
    """Builds the function."""

    def __init__(self, graph: Graph, values: Values):
        self.graph, self.values = graph, values
        self.ssa: dict[str, SSAValue] = {}
        self.ops: list[Operation] = []
        self.zeros: dict[tuple[int, str], SSAValue] = {}
        self.taken: set[str] = set(values.sizes)

    def module(self, parts: Partition) -> ModuleOp:
        graph = self.graph
        names = [self._unique(_identifier(n.name)) for n in graph.inputs]
        guards = graph.news()
        func = FuncOp(_identifier(graph.name), names, [self._type(n) for n in graph.inputs], guards)
        for node, arg in zip(graph.inputs, func.args, strict=True):
            self.ssa[node.name] = arg
        for plan in parts.plans:
            match plan:
                case AttendPlan():
                    self._attend(plan.changed(graph.canon))  # sizes may be known since that were not when it was made
                case ReorderPlan():
                    result = ReorderOp(self.ssa[plan.base.name], plan.index, plan.inverse, self._type(plan.node))
                    self._add(plan.node, result, result.output)
                case CallPlan(node):
                    self._call(node)
        block = func.body.block
        block.add_ops([*self.ops, ReturnOp([self.ssa[n.name] for n in graph.output_nodes()])])
        module = ModuleOp([func])
        _keep_products(func)
        verify(module)
        return module

    def _type(self, node: Node) -> TensorType:
        try:
            kind = element(from_torch(node.dtype))
        except KeyError:
            raise UnsupportedOpError(
                f"{with_text(node.location)}: {node.op} gives {node.dtype}, which a compiled function cannot hold; "
                "convert it outside the function"
            ) from None
        return TensorType.of(tuple(self.values.facts.simplify(e) for e in node.shape), kind)

    def _add(self, node: Node, operation: Operation, result: SSAValue) -> None:
        operation.attributes["at"] = StringAttr(str(node.location))
        if result.name_hint is None:
            result.name_hint = self._unique(_variable(node) or _identifier(node.op))
        self.ops.append(operation)
        self.ssa[node.name] = result

    def _unique(self, name: str) -> str:
        base, n = name, 1
        while name in self.taken:
            n += 1
            name = f"{base}_{n}"
        self.taken.add(name)
        return name

    # ---- calls

    def _call(self, node: Node) -> None:
        if node.op == "result":
            if node.name not in self.ssa:
                self._several(node["input"])
            return None
        if any(n.op == "result" and n["input"] is node for n in self.graph.nodes):
            return self._several(node)
        operation = CallOp(self._text(node), [self.ssa[x.name] for x in node.inputs], [self._type(node)])
        self._add(node, operation, operation.outputs[0])
        return None

    def _several(self, node: Node) -> None:
        results = [n for n in self.graph.nodes if n.op == "result" and n["input"] is node]
        if not results or results[0].name in self.ssa:
            return
        operation = CallOp(self._text(node), [self.ssa[x.name] for x in node.inputs], [self._type(n) for n in results])
        operation.attributes["at"] = StringAttr(str(node.location))
        self.ops.append(operation)
        for n, value in zip(results, operation.outputs, strict=True):
            value.name_hint = self._unique(_variable(n) or _identifier(node.op))
            self.ssa[n.name] = value

    def _text(self, node: Node) -> str:
        """The call with sizes that are known to be equal written as one."""
        text = node.call
        for name in sorted(self.graph.aliases):
            value = self.values.facts.simplify(self.graph.canon(Var(name)))
            new = str(value) if free_vars(value) == {str(value)} else f"({value})"
            text = re.sub(rf"(?<![\w.'\"]){re.escape(name)}(?![\w'\"(])", new, text)
        return text

    # ---- attention

    def _attend(self, plan: AttendPlan) -> None:
        reserved = _RESERVED | {n for n, _ in plan.dims} | set(self.values.sizes)
        names: dict[str, str] = {}
        for node in plan.captures:
            base = _identifier(node.name if isinstance(node, Input) else _variable(node) or node.op)
            name, n = base, 1
            while name in reserved or re.fullmatch(r"x\d+", name):
                n += 1
                name = f"{base}_{n}"
            reserved |= {name}
            names[f"%{node.name}"] = name

        def named(e: Expr) -> Expr:
            return rewrite(e, lambda x: Load(names[x.tensor], x.index, x.kind) if isinstance(x, Load) else None)

        sources = [
            Source("j", s.extent, s.key_map, s.value_map, named(s.mask), Lambda(("dot",), _float(named(s.score))))
            for s in plan.sources
        ]
        dims = [Dim(n, e) for n, e in plan.dims]
        inner = dict(plan.dims)
        out_type = self._type(plan.node)
        acc = "f64" if from_torch(plan.dtype) == "f64" else "f32"
        operation = AttendOp(
            self._operand(plan.query, plan.width, plan),
            [self._operand(s.key, plan.width, plan) for s in plan.sources],
            [self._gated_value(s, plan) for s in plan.sources],
            {names[f"%{n.name}"]: self.ssa[n.name] for n in plan.captures},
            dims=dims,
            query_map=plan.query_map,
            sources=sources,
            out_map=plan.out_map,
            lse_map=plan.lse_map or [Var(d.name) for d in dims],
            width=plan.width,
            normaliser=plan.normaliser,
            value_width=plan.value_width,
            out_type=out_type,
            lse_type=TensorType.of(
                self._type(plan.lse).shape if plan.lse else tuple(inner[d.name] for d in dims), element(acc)
            ),
        )
        operation.attributes[LINES] = DictionaryAttr({k: StringAttr(v) for k, v in lines_of(plan).items()})
        operation.lse.name_hint = self._unique("lse")
        self._add(plan.node, operation, operation.out)
        if plan.gates:
            self.ssa[plan.node.name] = self._gated(operation.out, plan.gates, plan.node)
        if plan.lse is not None:
            value: SSAValue = operation.lse
            if from_torch(plan.lse.dtype) != acc:
                cast = CallOp(f"x0.to({plan.lse.dtype})", [value], [self._type(plan.lse)])
                self.ops.append(cast)
                value = cast.outputs[0]
            self.ssa[plan.lse.name] = value

    def _gated_value(self, s: SourcePlan, plan: AttendPlan) -> SSAValue:
        value = self._operand(s.value, plan.value_width, plan)
        return self._gated(value, s.gates, s.value) if s.value is not None and s.gates else value

    def _gated(self, value: SSAValue, gates: tuple[Gate, ...], like: Node) -> SSAValue:
        """``value`` times the factors that the kernel does not know."""
        for gate in gates:
            name = "torch.div" if gate.divides else "torch.mul"
            call = f"{name}(x0, {gate_text(gate, like.rank, 'x1')})"
            more = [self.ssa[gate.factor.name]] if isinstance(gate.factor, Node) else []
            if isinstance(gate.factor, Node) and gate.factor.dtype != like.dtype:
                call += f".to({like.dtype})"
            operation = CallOp(call, [value, *more], [value.type])  # type: ignore[list-item]
            operation.attributes["at"] = StringAttr(str(like.location))
            self.ops.append(operation)
            value = operation.outputs[0]
        return value

    def _operand(self, node: Node | None, width: int, plan: AttendPlan) -> SSAValue:
        """A tensor, or a row of zeros where the attention reads none."""
        if node is not None:
            value = self.ssa[node.name]
            return value if node.dtype == plan.dtype else self._cast(value, node, plan)
        name = from_torch(plan.dtype)
        if (width, name) not in self.zeros:
            call = f"torch.zeros({width}, dtype={plan.dtype}, device=device)"
            operation = CallOp(call, [], [TensorType.of((Const(width),), element(name))])
            operation.outputs[0].name_hint = self._unique("zeros")
            self.ops.append(operation)
            self.zeros[width, name] = operation.outputs[0]
        return self.zeros[width, name]

    def _cast(self, value: SSAValue, node: Node, plan: AttendPlan) -> SSAValue:
        operation = CallOp(
            f"x0.to({plan.dtype})", [value], [TensorType.of(self._type(node).shape, element(from_torch(plan.dtype)))]
        )
        self.ops.append(operation)
        return operation.outputs[0]


def _float(e: Expr) -> Expr:
    return e if kind_of(e) == "float" else op("float", e)


def _identifier(name: str) -> str:
    """A name that may stand in IR text, which is ASCII."""
    name = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "t"
    return f"t_{name}" if name[0].isdigit() else name


def _variable(node: Node) -> str | None:
    """The variable that the user's line assigns, when that line says so."""
    found = re.match(r"\s*([A-Za-z_]\w*)\s*(?::[^=]*)?=[^=]", node.location.text, re.ASCII)
    return found.group(1) if found else None
