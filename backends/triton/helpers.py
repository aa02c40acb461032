"""Source of the small functions that a printed kernel may call; each is printed only where it is used."""

from __future__ import annotations

# Triton's // and % truncate, as C does, so both are corrected here to Python's rounding towards minus infinity.
HELPERS: dict[str, str] = {
    "floor_mod": '''\
@triton.jit
def floor_mod(a, b):
    """Python's a % b: the result has the sign of b."""
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
''',
    "floor_div": '''\
@triton.jit
def floor_div(a, b):
    """Python's a // b: rounded towards minus infinity."""
    r = a % b
    return (a - r) // b - tl.where((r != 0) & ((r < 0) != (b < 0)), 1, 0)
''',
    "tanh": '''\
@triton.jit
def tanh(x):
    """Rational function near 0 (Cephes), where 1 - 2 / (exp(2x) + 1) would cancel."""
    z = x * x
    p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
    q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, x + x * z * (p / q), tl.where(x < 0, -far, far))
''',
}
