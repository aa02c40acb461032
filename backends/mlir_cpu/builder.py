"""A writer of MLIR text: fresh SSA names, constants kept once, nested loops."""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Val(NamedTuple):
    """An SSA value and its type.  A vector holds one element per lane, a scalar is the same for all lanes."""

    ssa: str
    type: str

    @property
    def lanes(self) -> int:
        """Number of lanes; 0 for a scalar."""
        return int(self.type[7 : self.type.index("x")]) if self.type.startswith("vector<") else 0

    @property
    def element(self) -> str:
        return self.type[self.type.index("x") + 1 : -1] if self.type.startswith("vector<") else self.type

    @property
    def is_float(self) -> bool:
        return self.element[0] in "fb"  # f16, f32, f64, bf16


PTR = "!llvm.ptr"


def vec(lanes: int, element: str) -> str:
    """The type of ``lanes`` elements; of a scalar for 0."""
    return f"vector<{lanes}x{element}>" if lanes else element


def float_literal(value: float, element: str) -> str:
    """A literal that MLIR reads as this value."""
    if math.isfinite(value):
        text = repr(float(value))
        return text if "." in text and "e" not in text else f"{value:.17e}"
    if element == "f64":
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    return f"0x{struct.unpack('<I', struct.pack('<f', value))[0]:08X}"


@dataclass
class Loop:
    """An open ``scf.for``: its induction variable, carried values, and after it closes its results."""

    iv: Val
    carried: list[Val]
    results: list[Val]
    yields: list[Val] = field(default_factory=list)


class Builder:
    """Collects the text of one function body."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._constants: dict[tuple[str, str], tuple[Val, str]] = {}
        self._names: dict[str, int] = {}
        self._taken = {"%args", "%again"}  # tensors are called as users call them: e, e_1, args
        self._numbers: dict[Val, int] = {}
        self._depth = 1
        self._known: list[dict[str, Val]] = [{}]  # for each open block, the pure operations in it

    def body(self) -> str:
        """The text: constants first, then everything in order."""
        head = [f"  {value.ssa} = {text}" for value, text in self._constants.values()]
        return "\n".join(head + self._lines)

    # ---- lines ----------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self._lines.append("  " * self._depth + text)

    def comment(self, text: str) -> None:
        self.line(f"// {text}")

    def name(self, hint: str = "") -> str:
        if not hint.isidentifier():
            hint = re.sub(r"\W", "_", hint) or "v"
        count = self._names.get(hint, 0)
        while (name := f"%{hint}" if count == 0 and hint != "v" else f"%{hint}_{count}") in self._taken:
            count += 1
        self._names[hint] = count + 1
        self._taken.add(name)
        return name

    def op(self, text: str, type: str, hint: str = "") -> Val:
        """A line with one result."""
        value = Val(self.name(hint), type)
        self.line(f"{value.ssa} = {text}")
        return value

    def pure(self, text: str, type: str, hint: str = "") -> Val:
        """A line without side effects: written once in a block and the blocks inside it."""
        for scope in self._known:
            if text in scope:
                return scope[text]
        value = self._known[-1][text] = self.op(text, type, hint)
        return value

    # ---- constants ------------------------------------------------------------------------------------

    def _constant(self, literal: str, type: str, hint: str) -> Val:
        key = (literal, type)
        if key not in self._constants:
            text = f"dense<{literal}> : {type}" if type.startswith("vector<") else f"{literal} : {type}"
            if type == "i1":
                text = literal  # true and false have no written type
            self._constants[key] = (Val(self.name(hint), type), f"arith.constant {text}")
        return self._constants[key][0]

    def integer(self, value: int, type: str = "i64") -> Val:
        result = self._constant(str(value), type, f"c{value}" if value >= 0 else f"cm{-value}")
        if type == "i64":
            self._numbers[result] = value
        return result

    def real(self, value: float, type: str) -> Val:
        return self._constant(float_literal(value, Val("", type).element), type, "cst")

    def boolean(self, value: bool, lanes: int = 0) -> Val:
        literal = "true" if value else "false"
        return self._constant(literal, vec(lanes, "i1"), literal)

    def iota(self, type: str) -> Val:
        """0, 1, 2, ... in the lanes of an integer vector type."""
        lanes = Val("", type).lanes
        return self._constant("[" + ", ".join(map(str, range(lanes))) + "]", type, "iota")

    def mask_first(self, count: int, lanes: int) -> Val:
        """True in the first ``count`` of ``lanes``."""
        text = "[" + ", ".join("true" if n < count else "false" for n in range(lanes)) + "]"
        return self._constant(text, vec(lanes, "i1"), "mask")

    def mask_below(self, count: Val, lanes: int) -> Val:
        """True in the first ``count`` of ``lanes``, however many these are."""
        end = self.broadcast(count, lanes)
        return self.cmpi("slt", self.iota(end.type), end)

    # ---- arithmetic -----------------------------------------------------------------------------------

    def binary(self, name: str, a: Val, b: Val, hint: str = "") -> Val:
        """An ``arith`` op on two values of one type; floats may contract to fma."""
        flags = " fastmath<contract>" if name in ("addf", "subf", "mulf") else ""
        return self.pure(f"arith.{name} {a.ssa}, {b.ssa}{flags} : {a.type}", a.type, hint)

    def cast(self, name: str, a: Val, type: str) -> Val:
        return a if a.type == type else self.pure(f"arith.{name} {a.ssa} : {a.type} to {type}", type)

    def cmpi(self, predicate: str, a: Val, b: Val) -> Val:
        return self.pure(f"arith.cmpi {predicate}, {a.ssa}, {b.ssa} : {a.type}", vec(a.lanes, "i1"))

    def cmpf(self, predicate: str, a: Val, b: Val) -> Val:
        return self.pure(f"arith.cmpf {predicate}, {a.ssa}, {b.ssa} : {a.type}", vec(a.lanes, "i1"))

    def select(self, cond: Val, a: Val, b: Val) -> Val:
        types = f"{cond.type}, {a.type}" if cond.lanes else a.type
        return self.pure(f"arith.select {cond.ssa}, {a.ssa}, {b.ssa} : {types}", a.type)

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        return self.pure(f"math.fma {a.ssa}, {b.ssa}, {c.ssa} : {a.type}", a.type)

    def unary(self, name: str, a: Val) -> Val:
        """A ``math`` op."""
        return self.pure(f"math.{name} {a.ssa} : {a.type}", a.type)

    def broadcast(self, a: Val, lanes: int) -> Val:
        if a.lanes == lanes:
            return a
        return self.pure(f"vector.broadcast {a.ssa} : {a.type} to {vec(lanes, a.type)}", vec(lanes, a.type))

    def shuffle(self, x: Val, y: Val, picks: Sequence[int]) -> Val:
        """Lanes of ``x`` and, counted on from there, of ``y``."""
        type = vec(len(picks), x.element)
        return self.pure(f"vector.shuffle {x.ssa}, {y.ssa} {list(picks)} : {x.type}, {y.type}", type)

    def bitcast(self, a: Val, type: str) -> Val:
        dialect = "vector" if a.lanes else "arith"
        return self.pure(f"{dialect}.bitcast {a.ssa} : {a.type} to {type}", type)

    def intrinsic(self, name: str, args: Sequence[Val], type: str) -> Val:
        names, types = ", ".join(a.ssa for a in args), ", ".join(a.type for a in args)
        return self.pure(f'llvm.call_intrinsic "{name}"({names}) : ({types}) -> {type}', type)

    # scalar i64 arithmetic, folding the constants that address computations are full of

    def add(self, a: Val | int, b: Val | int) -> Val:
        x, y = self._number(a), self._number(b)
        if isinstance(x, int) and isinstance(y, int):
            return self.integer(x + y)
        if x == 0 or y == 0:
            return self._i64(b if x == 0 else a)
        return self.binary("addi", self._i64(a), self._i64(b))

    def sub(self, a: Val, b: Val | int) -> Val:
        x, y = self._number(a), self._number(b)
        if isinstance(x, int) and isinstance(y, int):
            return self.integer(x - y)
        return a if y == 0 else self.binary("subi", a, self._i64(b))

    def mul(self, a: Val | int, b: Val | int) -> Val:
        x, y = self._number(a), self._number(b)
        if isinstance(x, int) and isinstance(y, int):
            return self.integer(x * y)
        if x == 1 or y == 1:
            return self._i64(b if x == 1 else a)
        if x == 0 or y == 0:
            return self.integer(0)
        return self.binary("muli", self._i64(a), self._i64(b))

    def least(self, a: Val, b: Val | int) -> Val:
        return self.binary("minsi", a, self._i64(b))

    def most(self, a: Val, b: Val | int) -> Val:
        return self.binary("maxsi", a, self._i64(b))

    def less(self, a: Val, b: Val | int) -> Val:
        return self.cmpi("slt", a, self._i64(b))

    def known(self, value: Val | int) -> int | None:
        """A constant's number; None for what is no constant."""
        number = self._number(value)
        return number if isinstance(number, int) else None

    def _number(self, value: Val | int) -> Val | int:
        """A constant's number."""
        return value if isinstance(value, int) else self._numbers.get(value, value)

    def _i64(self, value: Val | int) -> Val:
        return value if isinstance(value, Val) else self.integer(value)

    # ---- memory ---------------------------------------------------------------------------------------

    def at(self, pointer: Val, index: Val | int, element: str, hint: str = "") -> Val:
        """``pointer + index`` elements; a vector of indices gives a vector of pointers."""
        if isinstance(index, Val):
            index = self._number(index)
        if isinstance(index, int):
            if index == 0:
                return pointer
            return self.pure(f"llvm.getelementptr {pointer.ssa}[{index}] : ({PTR}) -> {PTR}, {element}", PTR, hint)
        type = vec(index.lanes, PTR)
        return self.pure(
            f"llvm.getelementptr {pointer.ssa}[{index.ssa}] : ({PTR}, {index.type}) -> {type}, {element}", type, hint
        )

    def load(self, pointer: Val, type: str, align: int = 0, hint: str = "") -> Val:
        align = align or ELEMENT_BYTES[Val("", type).element]
        return self.op(f"llvm.load {pointer.ssa} {{alignment = {align} : i64}} : {PTR} -> {type}", type, hint)

    def store(self, value: Val, pointer: Val, align: int = 0) -> None:
        align = align or ELEMENT_BYTES[value.element]
        self.line(f"llvm.store {value.ssa}, {pointer.ssa} {{alignment = {align} : i64}} : {value.type}, {PTR}")

    def masked_load(self, pointer: Val, mask: Val, type: str, align: int = 0) -> Val:
        """Load the lanes where ``mask`` holds; the others are 0 and not read."""
        return self._masked_read("load", pointer, mask, type, align)

    def masked_store(self, value: Val, pointer: Val, mask: Val) -> None:
        self._masked_write("store", value, pointer, mask)

    def gather(self, pointers: Val, mask: Val, type: str) -> Val:
        return self._masked_read("gather", pointers, mask, type)

    def scatter(self, value: Val, pointers: Val, mask: Val) -> None:
        self._masked_write("scatter", value, pointers, mask)

    def _masked_read(self, name: str, source: Val, mask: Val, type: str, align: int = 0) -> Val:
        if (wanted := Val("", type)).element == "bf16":
            # As words: where LLVM parts the lanes of bf16 vectors, it rounds each by a call of a library.
            words = self._masked_read(name, source, mask, vec(wanted.lanes, "i16"), align)
            return self.bitcast(words, type)
        zero = self.zero(type)
        align = align or ELEMENT_BYTES[zero.element]
        return self.op(
            f"llvm.intr.masked.{name} {source.ssa}, {mask.ssa}, {zero.ssa} {{alignment = {align} : i32}} : "
            f"({source.type}, {mask.type}, {type}) -> {type}",
            type,
        )

    def _masked_write(self, name: str, value: Val, target: Val, mask: Val) -> None:
        if value.element == "bf16":
            value = self.bitcast(value, vec(value.lanes, "i16"))
        align = ELEMENT_BYTES[value.element]
        self.line(
            f"llvm.intr.masked.{name} {value.ssa}, {target.ssa}, {mask.ssa} {{alignment = {align} : i32}} : "
            f"{value.type}, {mask.type} into {target.type}"
        )

    def zero(self, type: str) -> Val:
        return self.real(0.0, type) if Val("", type).is_float else self.integer(0, type)

    def prefetch(self, pointer: Val, *, write: bool = False) -> None:
        self.line(
            f'"llvm.intr.prefetch"({pointer.ssa}) <{{cache = 1 : i32, hint = {3 if write else 2} : i32, '
            f"rw = {int(write)} : i32}}> : ({PTR}) -> ()"
        )

    def alloca(self, size: int, hint: str) -> Val:
        return self.op(
            f"llvm.alloca {self.integer(size).ssa} x i8 {{alignment = 64 : i64}} : (i64) -> {PTR}", PTR, hint
        )

    def room(self, size: int, name: str) -> Val:
        """Scratch of the whole function: the same for each request of this name."""
        key = (name, PTR)
        if key not in self._constants:
            text = f"llvm.alloca {self.integer(size).ssa} x i8 {{alignment = 64 : i64}} : (i64) -> {PTR}"
            self._constants[key] = (Val(self.name(name), PTR), text)
        return self._constants[key][0]

    # ---- control --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def loop(
        self, lo: Val | int, hi: Val | int, step: int = 1, init: Sequence[Val] = (), hint: str = "x"
    ) -> Iterator[Loop]:
        """``scf.for``; the body sets ``yields`` to the next carried values."""
        bounds = " to ".join(self._i64(v).ssa for v in (lo, hi))
        iv = Val(self.name(hint), "i64")
        carried = [Val(self.name("carry"), v.type) for v in init]
        result = self.name("loop") if init else ""
        names = [result] if len(init) == 1 else [f"{result}#{n}" for n in range(len(init))]
        loop = Loop(iv, carried, [Val(n, v.type) for n, v in zip(names, init, strict=True)])
        head = f"scf.for {iv.ssa} = {bounds} step {self.integer(step).ssa}"
        if init:
            pairs = ", ".join(f"{c.ssa} = {v.ssa}" for c, v in zip(carried, init, strict=True))
            types = ", ".join(v.type for v in init)
            count = f":{len(init)}" if len(init) > 1 else ""
            head = f"{result}{count} = {head} iter_args({pairs}) -> ({types})"
        with self.block(f"{head} : i64 {{"):
            yield loop
            if init:
                assert [v.type for v in loop.yields] == [v.type for v in init], "carried types differ"
                self.line(f"scf.yield {', '.join(v.ssa for v in loop.yields)} : {', '.join(v.type for v in init)}")

    @contextlib.contextmanager
    def block(self, head: str, tail: str = "}") -> Iterator[None]:
        self.line(head)
        with self._indented():
            yield
        self.line(tail)

    @contextlib.contextmanager
    def _indented(self) -> Iterator[None]:
        self._depth += 1
        self._known.append({})
        yield
        self._known.pop()
        self._depth -= 1

    @contextlib.contextmanager
    def when(self, cond: Val) -> Iterator[None]:
        """``scf.if`` without results."""
        with self.block(f"scf.if {cond.ssa} {{"):
            yield

    @contextlib.contextmanager
    def otherwise(self) -> Iterator[None]:
        """The else of the ``when`` just closed."""
        assert self._lines[-1].strip() == "}"
        self._lines.pop()
        with self.block("} else {"):
            yield

    def choose(self, cond: Val, then: Callable[[], Val], otherwise: Callable[[], Val], type: str) -> Val:
        """``scf.if`` with one result."""
        if (wanted := Val("", type)).element == "bf16":
            words = vec(wanted.lanes, "i16")  # as above: from block to block, too, LLVM would round each lane
            return self.bitcast(
                self.choose(cond, lambda: self.bitcast(then(), words), lambda: self.bitcast(otherwise(), words), words),
                type,
            )
        result = Val(self.name("chosen"), type)
        with self.block(f"{result.ssa} = scf.if {cond.ssa} -> ({type}) {{", "} else {"):
            self.line(f"scf.yield {then().ssa} : {type}")
        with self._indented():
            self.line(f"scf.yield {otherwise().ssa} : {type}")
        self.line("}")
        return result


ELEMENT_BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "i1": 1, PTR: 8}
