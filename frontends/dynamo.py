"""A compiled function inside ``torch.compile``.

Dynamo traces :func:`call` as if it were the user's code.  While it does, :func:`_look` runs for real: it sees the
arguments of the call, compiles for them, and leaves the functions of :mod:`.reader` as attributes of the compiled
function.  Dynamo goes on through these, so that captured tensors become inputs of its graph and what they are read
from is guarded.  What stays in the graph is one op of :mod:`.library`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..ir.errors import AttncError
from .capture import Finder, Place
from .errors import TransformError
from .locate import with_text
from .observed import refuse_random, specialised
from .programs import program_of
from .reader import bind_function, pick_function, read_functions
from .standin import stand_in
from .trace import where_defined

if TYPE_CHECKING:
    from .compiled import CompiledAttention
    from .specialise import Specialisation

_chosen = threading.local()


def call(compiled: CompiledAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call, as Dynamo traces it."""
    from torch._dynamo.comptime import comptime  # noqa: TID251 - it runs already

    from . import library  # noqa: F401 - makes the ops

    comptime(_prepare)
    values = compiled._bind(*args, **kwargs)  # type: ignore[attr-defined]
    comptime(_look)
    name, pick, order, *readers = choice().split()
    leaves: list[Any] = []
    gather(values, leaves)
    found: list[Any] = []
    for n, reader in enumerate(readers):
        read = getattr(compiled, reader)
        part = read(*values) if n == 0 else read()
        assert part is not None, "what the function reads from outside changed while it was traced"
        found.extend(part)
    inputs = leaves + [found[int(n)] for n in order.split(",") if n != "-"]
    tensors = [x if isinstance(x, torch.Tensor) else torch.full((), x, dtype=torch.float64) for x in inputs]
    saving = torch.is_grad_enabled() and any([x.requires_grad for x in tensors])  # noqa: C419 - Dynamo reads lists
    results = torch.ops.attnc.run(name, tensors, saving)
    return getattr(compiled, pick)(results, inputs)


def gather(value: Any, leaves: list[Any]) -> None:
    """Append the tensors and floats in ``value``, in the order of :func:`~.bind.describe`."""
    if isinstance(value, torch.Tensor | float):
        leaves.append(value)
    elif isinstance(value, tuple | list):
        for x in value:
            gather(x, leaves)
    elif isinstance(value, dict):
        for x in value.values():
            gather(x, leaves)


@torch.compiler.assume_constant_result
def choice() -> str:
    """What :func:`_look` chose: the names of the program, of its functions, and the order of captured tensors."""
    return _chosen.text


# ---- while Dynamo traces


def _prepare(context: Any) -> None:
    compiled = _real(context.get_local("compiled")._i_will_not_complain_if_bc_breaks_VariableTracker())
    if not hasattr(compiled, "_bind"):
        compiled._bind = bind_function(compiled.eager, compiled._binder.signature)


def _look(context: Any) -> None:
    compiled, values = (
        _real(context.get_local(name)._i_will_not_complain_if_bc_breaks_VariableTracker())
        for name in ("compiled", "values")
    )
    try:
        _chosen.text = _choose(compiled, values)
    except AttncError as error:
        raise error.with_traceback(None) from None


def _choose(compiled: CompiledAttention, values: tuple[Any, ...]) -> str:
    if torch._C._are_functorch_transforms_active():
        raise TransformError(
            f"{with_text(where_defined(compiled.eager))}: torch.func around a compiled function inside torch.compile "
            "is not supported; transform outside of torch.compile"
        )
    found = specialised(compiled, values)
    refuse_random(found)
    program = program_of(found, compiled)
    arguments = dict(zip(compiled._binder.names, values, strict=True))
    finder = compiled._finder(values, arguments)
    places = _places(found, finder, arguments)
    functions, order = read_functions(found.graph, compiled.eager, compiled._binder.names, places, finder.facts())
    names = [_attribute(compiled, f"_read{n}", *item) for n, item in enumerate(functions)]
    pick = _attribute(compiled, "_pick", *pick_function(found.graph))
    return " ".join([program.name, pick, ",".join(map(str, order)) or "-", *names])


def _places(found: Specialisation, finder: Finder, arguments: Mapping[str, Any]) -> list[Place]:
    """Where the captured tensors of a specialisation are."""
    result = []
    for getter, *_ in found.captures:
        path = finder.find(getter(arguments))
        assert path is not None, "captured tensors are found by name"
        result.append(finder.place(path))
    return result


def _attribute(compiled: CompiledAttention, prefix: str, function: Any, text: str) -> str:
    """Keep a function where Dynamo finds it.  Equal texts share a name, so that what was traced stays valid."""
    name = f"{prefix}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if name not in vars(compiled):
        setattr(compiled, name, function)
    return name


def _real(variable: Any) -> Any:
    """The Python value that Dynamo has for a variable, with stand-ins for tensors."""
    variable = variable.realize()
    kind = type(variable).__name__
    if variable.is_tensor():
        return stand_in(variable.as_proxy().node.meta["example_value"])
    if kind == "SymNodeVariable":  # an integer is part of the program, a float is not
        number = variable.sym_num
        return int(number) if isinstance(number, torch.SymInt) else float(number.node.hint)
    if variable.is_python_constant():
        return variable.as_python_constant()
    items = getattr(variable, "items", None)
    if isinstance(items, list | tuple):
        values = [_real(x) for x in items]
        python_type = variable.python_type()
        return python_type(*values) if hasattr(python_type, "_fields") else python_type(values)
    if isinstance(items, dict):
        return {k.vt.as_python_constant(): _real(v) for k, v in items.items()}
    value = getattr(variable, "value", variable)
    if value is variable:
        raise TransformError(f"an argument that Dynamo keeps as {kind} cannot be given to a compiled function")
    return value
