"""``attn.attend``, and what it has in common with its gradient: a domain, index maps and sources of keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, IntAttr, StringAttr
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    opt_result_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser, UnresolvedOperand
from xdsl.printer import Printer
from xdsl.traits import Pure

from . import syntax
from .attributes import (
    Dim,
    DimsAttr,
    ExprAttr,
    LambdaAttr,
    MapAttr,
    Source,
    SourceAttr,
    TensorType,
    TilesAttr,
    strings,
    tensor_type,
    where,
)
from .expr import Const, Expr, Load, free_vars, inners, kind_of, loads, map_text, without_inners
from .syntax import VerifyException

NORMALISERS = ("softmax", "none")
UNITS = ("base2", "natural")


def weights_at(lse_map: tuple[Expr, ...]) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """Where a tensor of weights has the peak and the inverse of the row whose log-sum-exp is at ``lse_map``."""
    return (Const(0), *lse_map), (Const(1), *lse_map)


class Attention(IRDLOperation):
    """What :class:`AttendOp` and its gradient have in common: the domain, the maps and the sources."""

    query = operand_def(TensorType)
    keys = var_operand_def(TensorType)
    values = var_operand_def(TensorType)
    captures = var_operand_def(TensorType)

    dims = prop_def(DimsAttr)
    query_map = prop_def(MapAttr)
    sources = prop_def(ArrayAttr[SourceAttr])
    capture_names = prop_def(ArrayAttr[StringAttr])
    out_map = prop_def(MapAttr)
    lse_map = prop_def(MapAttr)
    width = prop_def(IntAttr)
    value_width = prop_def(IntAttr)
    normaliser = prop_def(StringAttr)
    units = opt_prop_def(StringAttr)
    tiles = opt_prop_def(TilesAttr)

    traits = traits_def(Pure())

    @staticmethod
    def shape_properties(
        *,
        captures: Iterable[str],
        dims: Sequence[Dim],
        query_map: Sequence[Expr],
        sources: Sequence[Source],
        out_map: Sequence[Expr],
        lse_map: Sequence[Expr],
        width: int,
        value_width: int,
        normaliser: str = "softmax",
        units: str = "",
        tiles: tuple[int, int] | None = None,
    ) -> dict[str, Attribute]:
        """The properties that say over what domain and how attention is computed."""
        return {
            "dims": DimsAttr(tuple(dims)),
            "query_map": MapAttr(tuple(query_map)),
            "sources": ArrayAttr([SourceAttr(s) for s in sources]),
            "capture_names": ArrayAttr(strings(captures)),
            "out_map": MapAttr(tuple(out_map)),
            "lse_map": MapAttr(tuple(lse_map)),
            "width": IntAttr(width),
            "value_width": IntAttr(value_width),
            "normaliser": StringAttr(normaliser),
            **({"units": StringAttr(units)} if units else {}),
            **({"tiles": TilesAttr(tiles)} if tiles else {}),
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that make another op like this one, results aside."""
        return {
            "query": self.query,
            "keys": self.keys,
            "values": self.values,
            "captures": self.captured,
            "attributes": dict(self.attributes),
            **self.shape,
        }

    @property
    def shape(self) -> dict[str, Any]:
        """Keyword arguments that make another op of the same domain, maps and sources."""
        return {
            "dims": self.domain,
            "query_map": self.query_map.data,
            "sources": self.source_list,
            "out_map": self.out_map.data,
            "lse_map": self.lse_map.data,
            "width": self.width.data,
            "value_width": self.value_width.data,
            "normaliser": self.normaliser.data,
            "units": self.units.data if self.units else "",
            "tiles": self.tiles.data if self.tiles else None,
        }

    @property
    def domain(self) -> tuple[Dim, ...]:
        return self.dims.data

    @property
    def source_list(self) -> list[Source]:
        return [s.data for s in self.sources]

    @property
    def normalised(self) -> bool:
        """Are the scores exponentiated and divided by their sum, or the weights themselves?"""
        return self.normaliser.data == "softmax"

    @property
    def captured(self) -> dict[str, SSAValue]:
        """Captured tensors by the name that masks and scores use."""
        return dict(zip((n.data for n in self.capture_names), self.captures, strict=True))

    @property
    def weights_maps(self) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
        """Where the weights' two numbers for each row are: the peak, and the inverse of the sum."""
        return weights_at(self.lse_map.data)

    def verify_attention(self, out: SSAValue, *rows: tuple[str, tuple[Expr, ...], SSAValue]) -> None:
        """Raise unless the maps fit the tensors; ``out`` is or was what the attention gives, as are ``rows``."""
        problems: list[str] = []
        sources, keys, values = len(self.sources), len(self.keys), len(self.values)
        if not (sources == keys == values):
            problems.append(f"{sources} sources need as many keys and values, found {keys} and {values}")
        if not self.domain:
            problems.append("the domain is empty; it needs at least the query row")
        if len(self.capture_names) != len(self.captures):
            problems.append(f"{len(self.captures)} captured tensors but {len(self.capture_names)} names")
        if self.normaliser.data not in NORMALISERS:
            problems.append(f"normaliser {self.normaliser.data!r} is not known; known: {', '.join(NORMALISERS)}")
        if self.units and self.units.data not in UNITS:
            problems.append(f"units {self.units.data!r} are not known; known: {', '.join(UNITS)}")
        if self.units and not self.normalised:
            problems.append("weights that nothing normalises have no units")
        if not problems:
            problems = list(self._map_problems(out, rows))
        if problems:
            raise VerifyException(f"{self.name}{where(self)}: " + "; ".join(problems))

    def _map_problems(self, out: SSAValue, rows: Sequence[tuple[str, tuple[Expr, ...], SSAValue]]) -> Iterator[str]:
        arguments = self.parent.args if self.parent else ()  # of the function, whose sizes hold throughout
        sizes = set().union(
            *(free_vars(s) for v in (*self.operands, *self.results, *arguments) for s in tensor_type(v).shape),
        )
        seen = set(sizes)
        for dim in self.domain:
            yield from _unknown(f"the extent of {dim.name}", [dim.extent], seen)
            seen.add(dim.name)
        row, batch = self.domain[-1].name, seen - {self.domain[-1].name}
        yield from _fits("the query", self.query_map.data, self.query, seen | {"d"})
        yield from _fits("the out", self.out_map.data, out, seen | {"e"})
        for what, index, value in rows:
            yield from _fits(f"the {what}", index, value, seen)
        ranks = {name: len(tensor_type(v).shape) for name, v in self.captured.items()}
        for n, (source, key, value) in enumerate(zip(self.source_list, self.keys, self.values, strict=True)):
            at = f"source {n}: "
            yield from _unknown(f"{at}the extent", [source.extent], batch)
            names = batch | {source.key}
            yield from _fits(f"{at}the key", source.key_map, key, names | {"d"})
            yield from _fits(f"{at}the value", source.value_map, value, names | {"e"})
            names = names | {row}
            yield from _unknown(f"{at}the mask", [source.mask], names)
            yield from _unknown(f"{at}the score", [without_inners(source.score.body)], names | {*source.score.params})
            for product in inners(source.score.body):
                yield from _unknown(f"{at}the score", product.args, names | {"d"})
                if len(product.args) != 2 or not all(isinstance(x, Load) and "d" in free_vars(x) for x in product.args):
                    yield f"{at}{product} must be of two captured tensors, read along the features d"
            if inners(source.mask):
                yield f"{at}the mask holds an inner product"
            if source.score.params != ("dot",):
                yield f"{at}the score takes one argument, dot, found {', '.join(source.score.params) or 'none'}"
            if kind_of(source.mask) != "bool":
                yield f"{at}the mask must be a condition, found {source.mask}"
            for load in loads(source.mask) + loads(source.score.body):
                if load.tensor not in ranks:
                    yield f"{at}reads {load.tensor}, which is not among the captured tensors"
                elif len(load.index) != ranks[load.tensor]:
                    yield f"{at}reads {load} of a captured tensor of rank {ranks[load.tensor]}"

    def print_attention(self, lines: syntax.Lines) -> None:
        """Print all but the attributes and types."""
        lines.text(" over ").literal(self.dims.text())
        lines.new("query ").element(self.query, self.query_map.text()).text(f" width {self.width.data}")
        for source, key, value in zip(self.source_list, self.keys, self.values, strict=True):
            lines.new("source ").literal(f"{source.key} < {source.extent}")
            lines.text(" key ").element(key, map_text(source.key_map))
            lines.text(" value ").element(value, map_text(source.value_map))
            lines.text(" mask ").literal(str(source.mask)).text(" score ").literal(str(source.score))
        for name, value in self.captured.items():
            lines.new(f"capture {name} = ").value(value)
        lines.new(f"normaliser {self.normaliser.data}")
        if self.tiles:
            lines.text(" tiles ").literal(self.tiles.text())
        lines.new("out ").literal(self.out_map.text()).text(f" width {self.value_width.data}")
        lines.text(" lse ").literal(self.lse_map.text())
        if self.units:
            lines.text(f" weights {self.units.data}")


@dataclasses.dataclass
class ParsedAttention:
    """What :meth:`Attention.print_attention` prints, its operands not yet resolved."""

    query: UnresolvedOperand
    keys: list[UnresolvedOperand]
    values: list[UnresolvedOperand]
    captures: dict[str, UnresolvedOperand]
    shape: dict[str, Any]

    @property
    def operands(self) -> list[UnresolvedOperand]:
        return [self.query, *self.keys, *self.values, *self.captures.values()]

    def groups(self, operands: Sequence[SSAValue]) -> dict[str, Any]:
        """Resolved :attr:`operands` as keyword arguments."""
        n = len(self.keys)
        captures = dict(zip(self.captures, operands[1 + 2 * n :], strict=True))
        return {"query": operands[0], "keys": operands[1 : 1 + n], "values": operands[1 + n : 1 + 2 * n],
                "captures": captures}  # fmt: skip

    @staticmethod
    def read(parser: Parser) -> ParsedAttention:
        parser.parse_keyword("over")
        dims = DimsAttr.parse_text(parser)
        parser.parse_keyword("query")
        query, query_map = parser.parse_unresolved_operand(), MapAttr.parse_text(parser)
        parser.parse_keyword("width")
        width = parser.parse_integer()
        sources, keys, values = [], [], []
        while parser.parse_optional_keyword("source"):
            (dim,) = DimsAttr.parse_text(parser).data
            parser.parse_keyword("key")
            keys.append(parser.parse_unresolved_operand())
            key_map = MapAttr.parse_text(parser).data
            parser.parse_keyword("value")
            values.append(parser.parse_unresolved_operand())
            value_map = MapAttr.parse_text(parser).data
            parser.parse_keyword("mask")
            mask = ExprAttr.parse_text(parser).data
            parser.parse_keyword("score")
            score = LambdaAttr.parse_text(parser).data
            sources.append(Source(dim.name, dim.extent, key_map, value_map, mask, score))
        captures: dict[str, UnresolvedOperand] = {}
        while parser.parse_optional_keyword("capture"):
            name = parser.parse_identifier()
            parser.parse_punctuation("=")
            captures[name] = parser.parse_unresolved_operand()
        parser.parse_keyword("normaliser")
        normaliser = parser.parse_identifier()
        tiles = TilesAttr.parse_text(parser).data if parser.parse_optional_keyword("tiles") else None
        parser.parse_keyword("out")
        out_map = MapAttr.parse_text(parser).data
        parser.parse_keyword("width")
        value_width = parser.parse_integer()
        parser.parse_keyword("lse")
        lse_map = MapAttr.parse_text(parser).data
        units = parser.parse_identifier() if parser.parse_optional_keyword("weights") else ""
        shape = {"dims": dims.data, "query_map": query_map.data, "sources": sources, "out_map": out_map,
                 "lse_map": lse_map, "width": width, "value_width": value_width, "normaliser": normaliser,
                 "units": units, "tiles": tiles}  # fmt: skip
        return ParsedAttention(query, keys, values, captures, shape)


@irdl_op_definition
class AttendOp(Attention):
    """Attention over an iteration domain.

    For every point of ``dims`` (the last dimension is the query row ``i``) and every feature ``e``::

        score[s, j] = source[s].score(sum_d query[query_map] * key_s[key_map])   where source[s].mask, else -inf
        p           = softmax of score over all sources' keys together
        out[out_map] = sum over s, j of p[s, j] * value_s[value_map]
        lse[lse_map] = log(sum over s, j of exp(score[s, j]))

    With normaliser ``none``, ``p`` is the score itself where the mask holds, else 0, and ``lse`` is 0.

    A row without a live key gives ``out = 0`` and ``lse = -inf``.  ``out_map`` and ``lse_map`` are bijections
    from the domain (with ``e``) to the results' indices.

    With ``units``, what a gradient computes ``p`` again from is a third result, of two numbers for each row::

        weights[0, lse_map] = peak, about the largest score
        weights[1, lse_map] = 1 / (sum over s, j of exp(score[s, j] - peak))

    so that ``p = exp(score - peak) * weights[1]``; both are 0 for a row without a live key.  In units ``base2``, the
    peak is that of the scores times ``log2(e)``.
    """

    name = "attn.attend"
    out = result_def(TensorType)
    lse = result_def(TensorType)
    weights = opt_result_def(TensorType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def __init__(
        self,
        query: SSAValue,
        keys: Sequence[SSAValue],
        values: Sequence[SSAValue],
        captures: dict[str, SSAValue],
        *,
        out_type: Attribute,
        lse_type: Attribute,
        attributes: dict[str, Attribute] | None = None,
        **shape: Any,  # see Attention.shape_properties
    ):
        weights_type = []
        if shape.get("units"):
            assert isinstance(lse_type, TensorType)
            weights_type = [TensorType.of([Const(2), *lse_type.shape], lse_type.element)]
        super().__init__(
            operands=[query, keys, values, list(captures.values())],
            properties=Attention.shape_properties(captures=captures, **shape),
            attributes=attributes or {},
            result_types=[out_type, lse_type, weights_type],
        )

    def rebuilt(self, **changes: object) -> AttendOp:
        """A new op with some of ``__init__``'s arguments changed; the user's line is kept."""
        types = {"out_type": self.out.type, "lse_type": self.lse.type}
        new = AttendOp(**{**self.arguments, **types, **changes})
        for old, result in zip(self.results, new.results, strict=False):
            result.name_hint = old.name_hint
        return new

    @property
    def residuals(self) -> tuple[SSAValue, SSAValue]:
        """What a gradient is given of the results: the output, and what tells the weights of each row."""
        return self.out, self.lse if self.weights is None else self.weights

    def verify_(self) -> None:
        rows = [("lse", self.lse_map.data, self.lse)]
        if self.weights is not None:
            rows += [("weights", index, self.weights) for index in self.weights_maps]
        self.verify_attention(self.out, *rows)
        if bool(self.units) != (self.weights is not None):
            raise VerifyException(f"{self.name}{where(self)}: weights and their units belong together")

    def print(self, printer: Printer) -> None:
        lines = syntax.Lines(printer)
        with lines.indented():
            self.print_attention(lines)
            printer.print_op_attributes(self.attributes, print_keyword=True)
            lines.new(": (").types(self.operands).text(") -> (").types(self.results).text(")")

    @classmethod
    def parse(cls, parser: Parser) -> AttendOp:
        parsed = ParsedAttention.read(parser)
        attributes = parser.parse_optional_attr_dict_with_keyword()
        types, (out_type, lse_type, *_) = syntax.parse_signature(parser, 3 if parsed.shape["units"] else 2)
        operands = parser.resolve_operands(parsed.operands, types, parser.pos)
        return AttendOp(
            **parsed.groups(operands),
            **parsed.shape,
            out_type=out_type,
            lse_type=lse_type,
            attributes=dict(attributes.data) if attributes else {},
        )


def _unknown(what: str, exprs: Sequence[Expr], known: set[str]) -> Iterator[str]:
    loose = set().union(*(free_vars(e) for e in exprs)) - known
    if loose:
        yield f"{what} uses {', '.join(sorted(loose))}, which nothing there defines"


def _fits(what: str, index: Sequence[Expr], value: SSAValue, known: set[str]) -> Iterator[str]:
    rank = len(tensor_type(value).shape)
    if len(index) != rank:
        yield f"{what} map has {len(index)} expressions for a tensor of rank {rank}"
    yield from _unknown(f"{what} map", index, known)
