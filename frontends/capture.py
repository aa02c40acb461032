"""Tensors and numbers that a function reaches by itself: closures, globals, attributes, defaults.

A path such as ``self.bias`` or ``<tables[0]>`` starts at a name that the function's code uses and follows
attributes and items.  Each call follows it again, so rebinding or changing what it leads to takes effect.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from .closures import Code, Packed, unpacked

_PLAIN = (int, float, bool, str, bytes, type(None), torch.dtype, torch.device)
_LIMIT = 20_000  # objects looked at for one tensor
_MISSING = object()
Getter = Callable[[Mapping[str, Any]], Any]


def plain(value: Any) -> bool:
    """A value that is part of what a program is, compared by each call."""
    if isinstance(value, tuple | list):
        return len(value) <= 64 and all(plain(x) for x in value)
    return isinstance(value, _PLAIN)


class Place(NamedTuple):
    """Where a value is: by a getter, and as an expression in the scope of a function (None: no code reads it)."""

    path: str
    owner: Any
    code: str | None
    getter: Getter

    def child(self, path: str, code: str | None, getter: Getter) -> Place:
        """What ``code`` (``.bias``) leads to from here; ``path`` is how a user would write it."""
        known = self.code is not None and code is not None
        return Place(self.path + path, self.owner, f"{self.code}{code}" if known else None, getter)


class Fact(NamedTuple):
    """Something that the code reads from outside: ``code`` in the scope of ``owner`` gives ``value``.

    ``kind`` says what must stay as it is: ``value``, the ``type`` or the object (``same``).
    """

    owner: Any
    code: str
    kind: str
    value: Any


class Finder:
    """What one function can reach.  ``arguments`` are its non-tensor arguments by name, such as ``self``."""

    def __init__(self, fn: Callable[..., Any], arguments: Mapping[str, Any]):
        self.fn, self.arguments = fn, dict(arguments)
        self._paths: dict[int, str] | None = None
        self._places: dict[str, Place] = {}

    # ---- tensors

    def find(self, tensor: torch.Tensor) -> str | None:
        """A path to this very tensor, or None."""
        if self._paths is None or id(tensor) not in self._paths:
            self._paths = {}
            for place, value in self._reach():
                if isinstance(value, torch.Tensor) and id(value) not in self._paths:
                    self._paths[id(value)] = place.path
                    self._places[place.path] = place
        return self._paths.get(id(tensor))

    def getter(self, path: str) -> Getter:
        """How to fetch what ``path`` names, from the arguments of a call."""
        return self._places[path].getter

    def place(self, path: str) -> Place:
        """Where a tensor that :meth:`find` found is."""
        return self._places[path]

    def _reach(self) -> Iterator[tuple[Place, Any]]:
        """Everything reachable, nearest first."""
        queue: list[tuple[Place, Any]] = list(self._roots())
        seen: set[int] = set()
        count = 0
        while queue and count < _LIMIT:
            place, value = queue.pop(0)
            if id(value) in seen:
                continue
            count += 1
            yield place, value
            seen.add(id(value))
            queue.extend(_children(place, value))

    def _roots(self) -> Iterator[tuple[Place, Any]]:
        for name, value in self.arguments.items():
            yield Place(name, self.fn, name, lambda args, name=name: args[name]), value
        yield from _function_roots("", self.fn, lambda args: self.fn)

    # ---- numbers

    def watched(self) -> list[tuple[str, Getter, Any]]:
        """Plain values that the code reads from outside, each as (path, getter, value now)."""
        return [(path, getter, value) for path, (getter, value) in self._scanned().plain.items()]

    def facts(self) -> list[Fact]:
        """All that the code reads from outside, tensors apart."""
        return self._scanned().facts

    def _scanned(self) -> _Scan:
        scan = _Scan()
        roots = {name: (value, Place(name, self.fn, name, _argument(name))) for name, value in self.arguments.items()}
        scan.function(self.fn, roots, "")
        for value, place in roots.values():
            scan.packed(value, place)
        return scan


def _argument(name: str) -> Getter:
    return lambda args: args[name]


def _function_roots(prefix: str, fn: Any, getter: Getter) -> Iterator[tuple[Place, Any]]:
    """Closure cells, globals and defaults that a Python function uses."""
    fn = unwrapped(fn)
    code = getattr(fn, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield Place(prefix + name, fn, name, lambda args, cell=cell: cell.cell_contents), cell.cell_contents
        except ValueError:  # an empty cell: not yet assigned
            continue
    names = sorted(_names(code))
    space = fn.__globals__
    for name in names:
        if name in space:
            yield Place(prefix + name, fn, name, lambda args, name=name, space=space: space[name]), space[name]
    for n, value in enumerate(fn.__defaults__ or ()):
        path = f"{prefix}defaults[{n}]"
        yield Place(path, fn, None, lambda args, n=n, fn=fn: fn.__defaults__[n]), value
    for key, value in (fn.__kwdefaults__ or {}).items():
        yield Place(prefix + key, fn, None, lambda args, key=key, fn=fn: fn.__kwdefaults__[key]), value


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= _names(const)
    return names


def unwrapped(fn: Any) -> Any:
    """The function whose code runs."""
    if isinstance(fn, types.MethodType):
        return fn.__func__
    return getattr(fn, "__wrapped__", fn) if not isinstance(fn, types.FunctionType) else fn


def _children(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, (torch.Tensor, types.ModuleType, type, *_PLAIN)):
        return
    getter = place.getter
    if isinstance(value, torch.nn.Module):
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, child in value.__dict__[kind].items():
                code = f".{name}" if name.isidentifier() else f".{kind}[{name!r}]"
                yield place.child(f".{name}", code, lambda args, k=kind, n=name: getter(args).__dict__[k][n]), child
    if isinstance(value, Code):
        for name in sorted(_names(value.code) & value.names.keys()):
            yield place.child(f".{name}", None, lambda args, n=name: getter(args).names[n]), value.names[name]
    elif isinstance(value, dict):
        if len(value) <= 1000:
            for key, child in value.items():
                yield place.child(f"[{key!r}]", f"[{key!r}]", lambda args, k=key: getter(args)[k]), child
    elif isinstance(value, list | tuple):
        for n, child in enumerate(value[:1000]):
            yield place.child(f"[{n}]", f"[{n}]", lambda args, n=n: getter(args)[n]), child
    elif isinstance(value, functools.partial):
        for name in ("func", "args", "keywords"):
            yield (
                place.child(f".{name}", f".{name}", lambda args, n=name: getattr(getter(args), n)),
                getattr(value, name),
            )
    elif isinstance(value, types.FunctionType | types.MethodType):
        if not (value.__module__ or "").startswith(("torch", "attnc")):
            if isinstance(value, types.MethodType):
                yield place.child(".__self__", ".__self__", lambda args: getter(args).__self__), value.__self__
            yield from _function_roots(f"{place.path}.", value, getter)
    elif (hasattr(value, "__dict__") and not (type(value).__module__ or "").startswith("torch.")) or isinstance(
        value, torch.nn.Module
    ):
        for name, child in list(vars(value).items()):
            if not name.startswith("_") or not isinstance(value, torch.nn.Module):
                yield place.child(f".{name}", f".{name}", lambda args, n=name: getattr(getter(args), n)), child


class _Scan:
    """The values at the ends of name.attr[const] chains in the code of a function and of what it calls."""

    def __init__(self) -> None:
        self.plain: dict[str, tuple[Getter, Any]] = {}
        self.facts: list[Fact] = []
        self.seen: set[Any] = set()

    def function(self, fn: Any, arguments: Mapping[str, tuple[Any, Place]], prefix: str, called: bool = True) -> None:
        """Look at ``fn``, which ``called`` says surely runs; ``arguments`` are the objects known for its parameters."""
        fn = unwrapped(fn)
        code = getattr(fn, "__code__", None)
        mark = (code, tuple(id(v) for v, _ in arguments.values()))
        if (
            code is None
            or mark in self.seen
            or len(self.seen) > 300
            or (fn.__module__ or "").startswith(("torch.", "attnc."))
        ):
            return
        self.seen.add(mark)
        whole = _whole_chains(code)
        for chain in (*whole, *(c for c in _chains(code) if c not in whole)):
            found = self._follow(fn, arguments, prefix, chain)
            if found is None:
                continue
            if called and chain in whole:
                self._state(*found, chain[-1][0] == "call")
            self._note(*found, called and chain in whole)

    def packed(self, value: Any, place: Place) -> None:
        """Look at the functions among an argument, which are taken apart; what they close over is described with it."""
        if not isinstance(value, Packed):
            for n, child in enumerate(value if type(value) is tuple else ()):
                self.packed(child, place.child(f"[{n}]", None, _step(place.getter, "item", n)))
            return
        known = {}
        for n, (name, cell) in enumerate(zip(value.code.code.co_freevars, value.cells, strict=True)):
            at = place.child(f".{name}", None, lambda args, n=n: place.getter(args).cells[n])
            known[name] = cell, at
            self.packed(cell, at)
        self.function(unpacked(value), known, f"{place.path}:")

    def _follow(
        self, fn: Any, arguments: Mapping[str, tuple[Any, Place]], prefix: str, chain: tuple[tuple[str, Any], ...]
    ) -> tuple[Any, Place] | None:
        """What a chain leads to, as far as it does."""
        (op, name), *steps = chain
        value, place = _root(fn, arguments, prefix, op, name)
        if place is None:
            return None
        for kind, key in steps:
            if isinstance(value, torch.Tensor | types.ModuleType) and kind == "item":
                break
            try:
                child = value[key] if kind == "item" else getattr(value, key)
            except Exception:
                break
            # made at each look, so that there is nothing to come back to
            fresh = kind != "item" and getattr(value, key) is not child and not isinstance(child, types.MethodType)
            value, text = child, f"[{key!r}]" if kind == "item" else f".{key}"
            place = place.child(text, None if fresh else text, _step(place.getter, kind, key))
        return value, place

    def _note(self, value: Any, place: Place, called: bool) -> None:
        """Watch a plain value; look into a function or module that is called."""
        if place.path in self.plain:
            return
        inner = f"{place.path}:"
        if plain(value):
            self.plain[place.path] = (place.getter, value)
        elif isinstance(value, types.FunctionType):
            self.function(value, {}, inner, called)
        elif isinstance(value, types.MethodType):
            place = place.child("", ".__self__", lambda args, g=place.getter: g(args).__self__)
            self.function(value.__func__, {_first(value.__func__): (value.__self__, place)}, inner, called)
        elif isinstance(value, torch.nn.Module):
            forward = type(value).forward
            self.function(forward, {_first(forward): (value, place)}, inner, called)

    def _state(self, value: Any, place: Place, called: bool) -> None:
        """What must stay as it is, so that another object with the same facts runs the same program."""
        if isinstance(value, torch.Tensor | types.ModuleType | type | types.BuiltinFunctionType | types.MethodType):
            return  # methods are those of a type, and Dynamo guards on that where it meets the object
        theirs = isinstance(value, torch.nn.Module) and (type(value).__module__ or "").startswith("torch.")
        if plain(value):
            self._fact(place, "value", value)
        elif theirs and not value._modules:  # one of PyTorch's layers: its code is not looked at
            self._fact(place, "type", value)
            for name, child in vars(value).items():
                if plain(child) and (not name.startswith("_") or name == "training"):
                    self._fact(place.child("", f".{name}", place.getter), "value", child)
            for name, child in {**value._parameters, **value._buffers}.items():
                self._fact(place.child("", f".{name}", place.getter), "none", child is None)
        elif isinstance(value, torch.nn.Module) and called and not theirs:
            self._fact(place, "type", value)  # what its code reads is looked at
        else:
            self._fact(place, "same", value)

    def _fact(self, place: Place, kind: str, value: Any) -> None:
        if place.code is not None:
            self.facts.append(Fact(place.owner, place.code, kind, value))


def _root(
    fn: Any, arguments: Mapping[str, tuple[Any, Place]], prefix: str, op: str, name: str
) -> tuple[Any, Place | None]:
    if op in ("LOAD_FAST", "LOAD_DEREF") and name in arguments:
        return arguments[name]
    cells = dict(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True))
    if op == "LOAD_DEREF" and name in cells:
        cell = cells[name]
        try:
            return cell.cell_contents, Place(prefix + name, fn, name, lambda args: cell.cell_contents)
        except ValueError:
            return None, None
    if op in ("LOAD_GLOBAL", "LOAD_NAME") and name in fn.__globals__:
        space = fn.__globals__
        return space[name], Place(prefix + name, fn, name, lambda args: space[name])
    return None, None


def _first(fn: Any) -> str:
    names = getattr(getattr(fn, "__code__", None), "co_varnames", ())
    return names[0] if names else "self"


def _step(getter: Getter, kind: str, key: Any) -> Getter:
    if kind == "item":
        return lambda args: getter(args)[key]
    return lambda args: getattr(getter(args), key)


@functools.lru_cache(maxsize=1024)
def _chains(code: types.CodeType) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """The chains in a code object and every prefix of them: ``cfg.window.bit_length()`` reads ``cfg.window``."""
    return tuple(dict.fromkeys(c[:n] for c in _whole_chains(code) for n in range(1, len(c) + 1)))


@functools.lru_cache(maxsize=1024)
def _whole_chains(code: types.CodeType) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """Chains ``name.attr["key"]`` in a code object, as ((load op, name), ("attr", a), ("item", k), ...); a
    method that is called is a step ("call", method)."""
    chains: list[tuple[tuple[str, Any], ...]] = []
    current: list[tuple[str, Any]] = []
    const: Any = _MISSING
    for ins in dis.get_instructions(code):
        if ins.opname in ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_FAST", "LOAD_NAME", "LOAD_CLASSDEREF"):
            if current:
                chains.append(tuple(current))
            current, const = [(ins.opname, ins.argval)], _MISSING
        elif ins.opname in ("LOAD_ATTR", "LOAD_METHOD") and current and const is _MISSING:
            method = ins.opname == "LOAD_METHOD" or ins.argrepr.startswith("NULL|self")  # as Python 3.12 writes it
            current.append(("call" if method else "attr", ins.argval))
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
            chains.extend(_whole_chains(constant))
    return tuple(dict.fromkeys(chains))
