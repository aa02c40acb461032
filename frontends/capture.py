"""Tensors and numbers that a function reaches by itself: closures, globals, attributes, defaults.

A path such as ``self.bias`` or ``<tables[0]>`` starts at a name that the function's code uses and follows
attributes and items.  Each call follows it again, so rebinding or changing what it leads to takes effect.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

_PLAIN = (int, float, bool, str, bytes, type(None), torch.dtype, torch.device)
_LIMIT = 20_000  # objects looked at for one tensor
Path = tuple[str, tuple[Any, ...]]  # root, then ("attr", name) / ("item", key) steps
_MISSING = object()


def plain(value: Any) -> bool:
    """A value that is part of what a program is, compared by each call."""
    if isinstance(value, tuple | list):
        return len(value) <= 64 and all(plain(x) for x in value)
    return isinstance(value, _PLAIN)


class Finder:
    """What one function can reach.  ``arguments`` are its non-tensor arguments by name, such as ``self``."""

    def __init__(self, fn: Callable[..., Any], arguments: Mapping[str, Any]):
        self.fn, self.arguments = fn, dict(arguments)
        self._paths: dict[int, str] | None = None
        self._getters: dict[str, Callable[[Mapping[str, Any]], Any]] = {}

    # ---- tensors

    def find(self, tensor: torch.Tensor) -> str | None:
        """A path to this very tensor, or None."""
        if self._paths is None or id(tensor) not in self._paths:
            self._paths = {}
            for path, value, getter in self._reach():
                if isinstance(value, torch.Tensor) and id(value) not in self._paths:
                    self._paths[id(value)] = path
                    self._getters[path] = getter
        return self._paths.get(id(tensor))

    def getter(self, path: str) -> Callable[[Mapping[str, Any]], Any]:
        """How to fetch what ``path`` names, from the arguments of a call."""
        return self._getters[path]

    def _reach(self) -> Iterator[tuple[str, Any, Callable[[Mapping[str, Any]], Any]]]:
        """Everything reachable, nearest first."""
        queue: list[tuple[str, Any, Callable[[Mapping[str, Any]], Any]]] = list(self._roots())
        seen: set[int] = set()
        count = 0
        while queue and count < _LIMIT:
            path, value, getter = queue.pop(0)
            if id(value) in seen:
                continue
            count += 1
            yield path, value, getter
            seen.add(id(value))
            queue.extend(_children(path, value, getter))

    def _roots(self) -> Iterator[tuple[str, Any, Callable[[Mapping[str, Any]], Any]]]:
        for name, value in self.arguments.items():
            yield name, value, (lambda args, name=name: args[name])
        yield from _function_roots("", self.fn, lambda args: self.fn)

    # ---- numbers

    def watched(self) -> list[tuple[str, Callable[[Mapping[str, Any]], Any], Any]]:
        """Plain values that the code reads from outside, each as (path, getter, value now)."""
        found: dict[str, tuple[Callable[[Mapping[str, Any]], Any], Any]] = {}
        _scan(self.fn, self.arguments, lambda args, name: args[name], "", found, set())
        return [(path, getter, value) for path, (getter, value) in found.items()]


Getter = Callable[[Mapping[str, Any]], Any]


def _function_roots(prefix: str, fn: Any, getter: Getter) -> Iterator[tuple[str, Any, Getter]]:
    """Closure cells, globals and defaults that a Python function uses."""
    fn = _unwrapped(fn)
    code = getattr(fn, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield prefix + name, cell.cell_contents, (lambda args, cell=cell: cell.cell_contents)
        except ValueError:  # an empty cell: not yet assigned
            continue
    names = sorted(_names(code))
    space = fn.__globals__
    for name in names:
        if name in space:
            yield prefix + name, space[name], (lambda args, name=name, space=space: space[name])
    for n, value in enumerate(fn.__defaults__ or ()):
        yield f"{prefix}defaults[{n}]", value, (lambda args, n=n, fn=fn: fn.__defaults__[n])
    for key, value in (fn.__kwdefaults__ or {}).items():
        yield f"{prefix}{key}", value, (lambda args, key=key, fn=fn: fn.__kwdefaults__[key])


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= _names(const)
    return names


def _unwrapped(fn: Any) -> Any:
    if isinstance(fn, types.MethodType):
        return fn.__func__
    return getattr(fn, "__wrapped__", fn) if not isinstance(fn, types.FunctionType) else fn


def _children(path: str, value: Any, getter: Getter) -> Iterator[tuple[str, Any, Getter]]:
    if isinstance(value, (torch.Tensor, types.ModuleType, type, *_PLAIN)):
        return
    if isinstance(value, torch.nn.Module):
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, child in value.__dict__[kind].items():
                yield f"{path}.{name}", child, (lambda args, g=getter, k=kind, n=name: g(args).__dict__[k][n])
    if isinstance(value, dict):
        if len(value) <= 1000:
            for key, child in value.items():
                yield f"{path}[{key!r}]", child, (lambda args, g=getter, k=key: g(args)[k])
    elif isinstance(value, list | tuple):
        for n, child in enumerate(value[:1000]):
            yield f"{path}[{n}]", child, (lambda args, g=getter, n=n: g(args)[n])
    elif isinstance(value, functools.partial):
        yield f"{path}.func", value.func, (lambda args, g=getter: g(args).func)
        yield f"{path}.args", value.args, (lambda args, g=getter: g(args).args)
        yield f"{path}.keywords", value.keywords, (lambda args, g=getter: g(args).keywords)
    elif isinstance(value, types.FunctionType | types.MethodType):
        if not (value.__module__ or "").startswith(("torch", "attnc")):
            if isinstance(value, types.MethodType):
                yield f"{path}.__self__", value.__self__, (lambda args, g=getter: g(args).__self__)
            yield from _function_roots(f"{path}.", value, getter)
    elif (hasattr(value, "__dict__") and not (type(value).__module__ or "").startswith("torch.")) or isinstance(
        value, torch.nn.Module
    ):
        for name, child in list(vars(value).items()):
            if not name.startswith("_") or not isinstance(value, torch.nn.Module):
                yield f"{path}.{name}", child, (lambda args, g=getter, n=name: getattr(g(args), n))


def _scan(
    fn: Any,
    arguments: Mapping[str, Any],
    argument: Callable[[Mapping[str, Any], str], Any],
    prefix: str,
    found: dict[str, tuple[Getter, Any]],
    seen: set[Any],
) -> None:
    """Add the plain values at the ends of name.attr[const] chains in the code of ``fn`` and of what it calls."""
    fn = _unwrapped(fn)
    code = getattr(fn, "__code__", None)
    mark = (code, tuple(id(v) for v in arguments.values()))
    if code is None or mark in seen or len(seen) > 300 or (fn.__module__ or "").startswith(("torch.", "attnc.")):
        return
    seen.add(mark)
    cells = dict(zip(code.co_freevars, fn.__closure__ or (), strict=True))

    def root(name: str, op: str) -> tuple[Any, Getter | None]:
        if op in ("LOAD_FAST", "LOAD_DEREF") and name in arguments:
            return arguments[name], lambda args: argument(args, name)
        if op == "LOAD_DEREF" and name in cells:
            cell = cells[name]
            try:
                return cell.cell_contents, lambda args: cell.cell_contents
            except ValueError:
                return _MISSING, None
        if op in ("LOAD_GLOBAL", "LOAD_NAME") and name in fn.__globals__:
            space = fn.__globals__
            return space[name], lambda args: space[name]
        return _MISSING, None

    for chain in _chains(code):
        (op, name), *steps = chain
        value, getter = root(name, op)
        path = prefix + name
        for kind, key in steps:
            if getter is None or (isinstance(value, torch.Tensor | types.ModuleType) and kind == "item"):
                break
            try:
                child = getattr(value, key) if kind == "attr" else value[key]
            except Exception:
                break
            value, path = child, f"{path}.{key}" if kind == "attr" else f"{path}[{key!r}]"
            getter = _step(getter, kind, key)
        if getter is None or value is _MISSING or path in found:
            continue
        if plain(value):
            found[path] = (getter, value)
        elif isinstance(value, types.FunctionType):
            _scan(value, {}, argument, f"{path}:", found, seen)
        elif isinstance(value, types.MethodType):
            found_self = getter
            _scan(
                value.__func__,
                {_first(value.__func__): value.__self__},
                lambda args, _, g=found_self: g(args).__self__,
                f"{path}:",
                found,
                seen,
            )
        elif isinstance(value, torch.nn.Module):
            forward = type(value).forward
            _scan(forward, {_first(forward): value}, lambda args, _, g=getter: g(args), f"{path}:", found, seen)


def _first(fn: Any) -> str:
    names = getattr(getattr(fn, "__code__", None), "co_varnames", ())
    return names[0] if names else "self"


def _step(getter: Getter, kind: str, key: Any) -> Getter:
    if kind == "attr":
        return lambda args: getattr(getter(args), key)
    return lambda args: getter(args)[key]


@functools.lru_cache(maxsize=1024)
def _chains(code: types.CodeType) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """Chains ``name.attr["key"]`` in a code object, as ((load op, name), ("attr", a), ("item", k), ...)."""
    chains: list[tuple[tuple[str, Any], ...]] = []
    current: list[tuple[str, Any]] = []
    const: Any = _MISSING
    for ins in dis.get_instructions(code):
        if ins.opname in ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_FAST", "LOAD_NAME", "LOAD_CLASSDEREF"):
            if current:
                chains.append(tuple(current))
            current, const = [(ins.opname, ins.argval)], _MISSING
        elif ins.opname in ("LOAD_ATTR", "LOAD_METHOD") and current and const is _MISSING:
            current.append(("attr", ins.argval))
        elif ins.opname == "LOAD_CONST" and current and plain(ins.argval) and const is _MISSING:
            const = ins.argval
        elif ins.opname == "BINARY_SUBSCR" and current and const is not _MISSING:
            current.append(("item", const))
            const = _MISSING
        elif ins.opname in ("CACHE", "RESUME", "NOP", "PUSH_NULL", "PRECALL", "EXTENDED_ARG"):
            continue
        else:
            if current:
                chains.append(tuple(current))
            current, const = [], _MISSING
    if current:
        chains.append(tuple(current))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            chains.extend(_chains(constant))
    # every prefix too: cfg.window.bit_length() reads cfg.window
    return tuple(dict.fromkeys(c[:n] for c in chains for n in range(1, len(c) + 1)))
