"""The tables that rules enter themselves into, and the names that are one op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}  # op -> rule(tracer, *arguments of the op), after PyTorch accepted the call
EARLY: dict[str, Rule] = {}  # the same, without asking PyTorch first
PROBED: set[str] = set()  # ops whose element type PyTorch is asked for
FACTORIES: set[str] = set()  # ops that make tensors from no tensor

_OPERATORS = """add sub mul truediv=div floordiv=floor_divide mod=remainder pow matmul and=bitwise_and or=bitwise_or
xor=bitwise_xor lshift=bitwise_left_shift rshift=bitwise_right_shift div"""
_SYNONYMS = """subtract=sub multiply=mul divide=div true_divide=div absolute=abs negative=neg greater=gt
greater_equal=ge less=lt less_equal=le not_equal=ne concat=cat concatenate=cat clip=clamp swapaxes=transpose
swapdims=transpose moveaxis=movedim row_stack=vstack mm=matmul bmm=matmul mv=matmul dot=matmul _softmax=softmax
_log_softmax=log_softmax _unsafe_view=view special_expit=sigmoid expit=sigmoid special_logsumexp=logsumexp
special_softmax=softmax special_log_softmax=log_softmax __eq__=eq __ne__=ne __lt__=lt __le__=le __gt__=gt __ge__=ge
__neg__=neg __abs__=abs __invert__=bitwise_not __rsub__=rsub __rdiv__=rdiv __rtruediv__=rdiv __rfloordiv__=rfloordiv
__rmod__=rremainder __rpow__=rpow __rmatmul__=rmatmul __rlshift__=rlshift __rrshift__=rrshift fix=trunc
permute_copy=permute narrow_copy=narrow"""
SAME: dict[str, str] = {}  # PyTorch's name -> the one that rules use
for _entry in _OPERATORS.split():
    _name, _, _target = _entry.partition("=")
    SAME[f"__{_name}__"] = _target or _name
    SAME[f"__i{_name}__"] = (_target or _name) + "_"
for _name in ("add", "mul", "and", "or", "xor"):
    SAME[f"__r{_name}__"] = SAME[f"__{_name}__"]
for _entry in _SYNONYMS.split():
    _name, _, _target = _entry.partition("=")
    SAME[_name] = _target

RENAMED = {"axis": "dim", "keepdims": "keepdim", "self": "input", "exponent": "other", "train": "training"}


def rule(*names: str, factory: bool = False, probe: bool = False) -> Callable[[Rule], Rule]:
    """Enter a rule under the names of its ops."""

    def enter(f: Rule) -> Rule:
        for name in names:
            RULES[name] = f
            if factory:
                FACTORIES.add(name)
            if probe:
                PROBED.add(name)
        return f

    return enter


def early(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule that answers by itself."""

    def enter(f: Rule) -> Rule:
        for name in names:
            EARLY[name] = f
        return f

    return enter
