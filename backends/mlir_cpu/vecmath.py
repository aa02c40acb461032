"""Elementary functions on lane vectors, as polynomials.

``math.exp2`` and its kin would become one library call per lane, halving the speed of a whole attention
kernel.  Coefficients are near-minimax (Chebyshev); the errors stated are relative, before rounding.
"""

from __future__ import annotations

import math

from .builder import Builder, Val, vec
from .target import Target

# 2**r on [-1/2, 1/2]
EXP2 = {
    # error 2.8e-9, exact at 0
    "f32": (1.0, 0.693147206702832596, 0.240226509222887581, 0.0555032722667030206, 0.00961805667852463808,
            0.00134004281776158379, 0.000154614446985691291),
    # error 4.5e-18
    "f64": (1.0, 0.693147180559945309, 0.240226506959101596, 0.055504108664821627, 0.00961812910758725667,
            0.00133335581464064707, 0.000154035304637243542, 0.0000152527338415567726, 1.32154325359123762e-6,
            1.01780570877339411e-7, 7.07419429728852101e-9, 4.45581790833606449e-10),
}  # fmt: skip
# 2**r on [0, 1], exact at 0; errors 8.6e-5 and 2.1e-9
COARSE_EXP2 = (1.0, 0.695116788128393, 0.227644983587445, 0.0770670489860976)
FINE_EXP2 = (1.0, 0.693147044443107, 0.24022930555458902, 0.05548528060973756, 0.009675451582218483,
             0.0012467846323603706, 0.00021612915326403145)  # fmt: skip
# log2(m) = s * P(s * s) with s = (m - 1) / (m + 1), for m in [sqrt(1/2), sqrt(2)]
LOG2 = {
    # error 7.0e-10
    "f32": (2.88539007980333633, 0.961798838802110004, 0.576715186019023427, 0.43171769745887384),
    # error 1.2e-18
    "f64": (2.88539008177792681, 0.961796693925989729, 0.577078016345520229, 0.412198585840900534,
            0.320598534913959861, 0.262334352504183019, 0.220913084231176796, 0.213658956943192694),
}  # fmt: skip
# tanh(x) = x + x * z * P(z) with z = x * x, for |x| <= 0.625
TANH = {
    # error 6.2e-10
    "f32": (-0.333333331721403616, 0.133333035569157418, -0.0539592595772045427, 0.0217689186510282102,
            -0.00834394551583915205, 0.00229274481617814234),
    # error 1.5e-18
    "f64": (-0.333333333333333329, 0.133333333333330416, -0.0539682539678969917, 0.0218694885190083058,
            -0.00886323510324087792, 0.00359212175115496227, -0.00145577541204780551, 0.000589660657775704335,
            -0.000237590649605556196, 0.0000925711612955676827, -0.0000312011014257974, 6.48516348279311315e-6),
}  # fmt: skip


class VectorMath:
    """Emits elementary functions for vectors of one float type."""

    def __init__(self, builder: Builder, target: Target, element: str, *, coarse: bool = False):
        self.b, self.target, self.element = builder, target, element
        self.coarse = coarse and element == "f32" and target.scalef  # results meet operands of bf16
        self.lanes = target.lanes(element)
        self.type = vec(self.lanes, element)
        self.wide = element == "f64"
        self.bits = vec(self.lanes, "i64" if self.wide else "i32")
        self.mantissa, self.bias = (52, 1023) if self.wide else (23, 127)

    def const(self, value: float) -> Val:
        return self.b.real(value, self.type)

    def bit_const(self, value: int) -> Val:
        return self.b.integer(value, self.bits)

    def polynomial(self, coefficients: tuple[float, ...], x: Val) -> Val:
        """Horner's rule, constant term first in ``coefficients``."""
        result = self.const(coefficients[-1])
        for c in coefficients[-2::-1]:
            result = self.b.fma(result, x, self.const(c))
        return result

    def narrow(self, x: Val, element: str) -> Val:
        """Floats rounded to a narrower type, to the nearest and then to even; by way of f32, as PyTorch does."""
        b = self.b
        x = b.cast("truncf", x, vec(x.lanes, "f32"))
        if element != "bf16" or self.target.rounds:
            return b.cast("truncf", x, vec(x.lanes, element))
        # without the instruction LLVM would call a library for every lane
        type = vec(x.lanes, "i32")
        bits = b.bitcast(x, type)
        odd = b.binary("andi", b.binary("shrui", bits, b.integer(16, type)), b.integer(1, type))
        up = b.binary("addi", b.binary("addi", bits, b.integer(0x7FFF, type)), odd)
        quiet = b.binary("ori", bits, b.integer(0x400000, type))
        high = b.binary("shrui", b.select(b.cmpf("uno", x, x), quiet, up), b.integer(16, type))
        return b.bitcast(b.cast("trunci", high, vec(x.lanes, "i16")), vec(x.lanes, "bf16"))

    def maximum(self, a: Val, b: Val) -> Val:
        """One instruction on x86; when either is NaN, ``b``."""
        return self.b.select(self.b.cmpf("ogt", a, b), a, b)

    def minimum(self, a: Val, b: Val) -> Val:
        return self.b.select(self.b.cmpf("olt", a, b), a, b)

    def exp2(self, x: Val, terms: tuple[Val, Val, Val] | None = None, *, fine: bool = False) -> Val:
        """2**x for x < inf; -inf gives 0, NaN stays.

        With ``terms`` (a, b, c), ``x`` is ``a * b - c`` in one rounding.  The fraction of x is then computed from
        them anew, less the integer, so that it is exact to an ulp of 1/2 instead of one of x.

        ``fine`` asks for all bits of f32 where probabilities need fewer: scores are not probabilities.

        What would be subnormal becomes 0: an instruction with a subnormal result takes a hundred times longer on
        Intel CPUs, and the scores that a mask took away all end there.
        """
        b = self.b
        if self.target.scalef and not self.wide:
            return self._exp2_above(x, self.coarse and not fine)
        smallest = self.const(2.0 - self.bias)
        t = self.maximum(smallest, x)
        if not self.target.scalef:  # where the exponent passes through an integer
            t = self.minimum(self.const(1100.0 if self.wide else 200.0), t)
        n = b.unary("roundeven", t)
        if terms is None:
            r = b.binary("subf", t, n)
        else:
            factor, other, offset = terms
            offset = b.binary("addf", offset, n)
            r = b.fma(factor, other, b.pure(f"arith.negf {offset.ssa} : {offset.type}", offset.type))
        p = self.polynomial(EXP2[self.element], r)
        return b.select(b.cmpf("olt", x, smallest), self.const(0.0), self._scale(p, n))

    def _exp2_above(self, x: Val, coarse: bool) -> Val:
        """The same by two instructions that take the fraction and the integer below ``x``.

        Coarse, it is right to 13 bits, which is more than bf16 keeps, and exact at 0, so that factors of 1 do not
        drift; subnormals are flushed then (see ``amx.configure``), and here are left out by a mask.
        """
        b, current = self.b, self.b.integer(4, "i32")
        all_lanes, floor = b.integer(-1, "i16"), b.integer(0x9, "i32")
        r = b.intrinsic("llvm.x86.avx512.mask.reduce.ps.512", [x, floor, x, all_lanes, current], self.type)
        p = self.polynomial(COARSE_EXP2 if coarse else FINE_EXP2, r)
        otherwise, lanes = p, all_lanes
        if not coarse:
            kept = b.cmpf("uge", x, self.const(2.0 - self.bias))
            lanes = b.pure(f"llvm.bitcast {kept.ssa} : {kept.type} to i16", "i16")
            otherwise = self.const(0.0)
        return b.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", [p, x, otherwise, lanes, current], self.type)

    def _scale(self, p: Val, n: Val) -> Val:
        """``p * 2**n``."""
        b = self.b
        if self.target.scalef:
            kind, mask = ("pd", "i8") if self.wide else ("ps", "i16")
            keep_all, current_rounding = b.integer(-1, mask), b.integer(4, "i32")
            name = f"llvm.x86.avx512.mask.scalef.{kind}.512"
            return b.intrinsic(name, [p, n, p, keep_all, current_rounding], self.type)
        e = b.cast("fptosi", n, self.bits)
        # in two halves: 2**128 has no exponent of its own, though sqrt(2)/2 * 2**128 is finite
        half = b.binary("shrsi", e, self.bit_const(1))
        shift = self.bit_const(self.mantissa)

        def power(k: Val) -> Val:
            biased = b.binary("addi", k, self.bit_const(self.bias))
            return b.bitcast(b.binary("shli", biased, shift), self.type)

        return b.binary("mulf", b.binary("mulf", p, power(half)), power(b.binary("subi", e, half)))

    def log2(self, x: Val) -> Val:
        """Base-2 logarithm; 0 gives -inf, negative numbers NaN."""
        b = self.b
        subnormal = b.cmpf("olt", x, self.const(2.0 ** (1 - self.bias)))
        up = self.mantissa + 2
        y = b.select(subnormal, b.binary("mulf", x, self.const(2.0**up)), x)
        root = 0x3FE6A09E667F3BCD if self.wide else 0x3F3504F3  # bits of sqrt(1/2)
        one = self.bias << self.mantissa
        bits = b.binary("addi", b.bitcast(y, self.bits), self.bit_const(one - root))
        e = b.binary("subi", b.binary("shrsi", bits, self.bit_const(self.mantissa)), self.bit_const(self.bias))
        fraction = b.binary("andi", bits, self.bit_const((1 << self.mantissa) - 1))
        m = b.bitcast(b.binary("addi", fraction, self.bit_const(root)), self.type)
        s = b.binary("divf", b.binary("subf", m, self.const(1.0)), b.binary("addf", m, self.const(1.0)))
        p = self.polynomial(LOG2[self.element], b.binary("mulf", s, s))
        exponent = b.cast("sitofp", e, self.type)
        exponent = b.select(subnormal, b.binary("subf", exponent, self.const(float(up))), exponent)
        result = b.fma(p, s, exponent)
        result = b.select(b.cmpf("olt", x, self.const(0.0)), self.const(math.nan), result)
        result = b.select(b.cmpf("oeq", x, self.const(0.0)), self.const(-math.inf), result)
        special = b.binary("ori", b.cmpf("oeq", x, self.const(math.inf)), b.cmpf("uno", x, x))
        return b.select(special, x, result)

    def exp(self, x: Val) -> Val:
        """e**x = 2**t * (1 + e ln 2), where t + e = x log2(e) to twice the precision."""
        b, log2e = self.b, math.log2(math.e)
        t = b.binary("mulf", x, self.const(log2e))
        error = b.fma(x, self.const(log2e), b.pure(f"arith.negf {t.ssa} : {self.type}", self.type))
        finite = b.cmpf("olt", b.unary("absf", t), self.const(1100.0))
        error = b.select(finite, error, self.const(0.0))
        y = self.exp2(self.minimum(self.const(1100.0 if self.wide else 200.0), t), fine=True)
        # an infinite result is right already: times the error it would cancel itself
        return b.select(
            b.cmpf("olt", y, self.const(math.inf)), b.fma(b.binary("mulf", y, self.const(math.log(2))), error, y), y
        )

    def log(self, x: Val) -> Val:
        return self.b.binary("mulf", self.log2(x), self.const(math.log(2)))

    def sigmoid(self, x: Val) -> Val:
        """1 / (1 + e**-x); an infinite denominator gives the right 0."""
        b = self.b
        e = self.exp(b.pure(f"arith.negf {x.ssa} : {x.type}", x.type))
        return b.binary("divf", self.const(1.0), b.binary("addf", self.const(1.0), e))

    def tanh(self, x: Val) -> Val:
        b = self.b
        size = b.unary("absf", x)
        z = b.binary("mulf", x, x)
        small = b.fma(b.binary("mulf", x, z), self.polynomial(TANH[self.element], z), x)
        # 1 - 2 / (e**(2|x|) + 1), with the sign of x
        e = self.exp(b.binary("addf", size, size))
        quotient = b.binary("divf", self.const(2.0), b.binary("addf", e, self.const(1.0)))
        large = b.pure(
            f"math.copysign {b.binary('subf', self.const(1.0), quotient).ssa}, {x.ssa} : {self.type}", self.type
        )
        return b.select(b.cmpf("olt", size, self.const(0.625)), small, large)

    def library(self, name: str, x: Val) -> Val:
        """A function without a polynomial here: one call per lane, exact but slow."""
        return self.b.unary(name, x)
