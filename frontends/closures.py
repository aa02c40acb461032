"""Functions given as arguments, taken apart: what they close over becomes arguments, too.

A function made anew for each call (``lambda b, h, i, j: document[i] == document[j]``) is the same program every time,
about other tensors.  Taken apart it is described by its code and by what its closure holds.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class ByValue:
    """Objects that stand for what they hold: arguments that are equal are the same program."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Code(ByValue):
    """The code of a function and the names around it: equal for all functions that one line makes."""

    code: types.CodeType
    space: int  # the identity of ``names``
    names: dict[str, Any] = field(compare=False, repr=False)


class Packed(NamedTuple):
    """A function's code, what it closes over, and its defaults; functions among these are packed, too."""

    code: Code
    cells: tuple[Any, ...]
    defaults: tuple[Any, ...]
    keywords: dict[str, Any]


def packed(value: Any, around: tuple[Any, ...] = ()) -> Any:
    """``value`` with every function in it taken apart; other callables stay whole, as does one that holds itself.

    ``around`` are the functions that ``value`` is found in.
    """
    if type(value) is tuple:
        return tuple(packed(x, around) for x in value)
    if type(value) is not types.FunctionType or any(value is f for f in around) or hasattr(value, "__wrapped__"):
        return value
    within = (*around, value)
    try:
        cells = tuple(packed(c.cell_contents, within) for c in value.__closure__ or ())
    except ValueError:  # a cell that is still empty
        return value
    code = Code(value.__code__, id(value.__globals__), value.__globals__)
    defaults = tuple(packed(x, within) for x in value.__defaults__ or ())
    return Packed(code, cells, defaults, {k: packed(x, within) for k, x in (value.__kwdefaults__ or {}).items()})


def unpacked(value: Any) -> Any:
    """The inverse of :func:`packed`: functions that do the same."""
    if isinstance(value, Packed):
        cells = tuple(types.CellType(unpacked(x)) for x in value.cells)
        found = types.FunctionType(value.code.code, value.code.names, None, unpacked(value.defaults), cells)
        found.__kwdefaults__ = {k: unpacked(x) for k, x in value.keywords.items()}
        return found
    return tuple(unpacked(x) for x in value) if type(value) is tuple else value
