"""What is tuned: a program with its inputs, the numbers it must give, and both as files for another process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

Tensors = list[torch.Tensor]
# the outputs for these inputs, by the function as written; in float64 if asked
Eager = Callable[[Sequence[torch.Tensor], bool], Tensors]


@dataclass(frozen=True)
class Program:
    """All that the driver needs to build a plan, as JSON values."""

    function: str
    graph: str  # text of the captured graph
    module: str  # text of the attn module raised from it
    backend: str
    dtype: str
    device: str
    hints: dict[str, int | float] = field(default_factory=dict)
    wanted: tuple[int, ...] = ()  # inputs whose gradients are tuned
    given: tuple[int, ...] = ()  # outputs that have gradients


@dataclass
class Subject:
    """A program, its inputs (captured tensors last, numbers as tensors) and how it runs as written."""

    program: Program
    inputs: Tensors
    eager: Eager


def write(folder: Path, name: str, value: Any) -> Path:
    """Put nested lists and dictionaries of JSON values and tensors in two files; memory that tensors share stays so."""
    storages: dict[int, int] = {}
    offset = 0
    with open(folder / f"{name}.bin", "wb") as file:

        def encode(x: Any) -> Any:
            nonlocal offset
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage.data_ptr() not in storages or not storage.nbytes():
                    data = torch.empty(0, dtype=torch.uint8).set_(storage.cpu())  # type: ignore[call-overload]
                    file.write(data.numpy().tobytes())
                    storages[storage.data_ptr()] = offset
                    offset += storage.nbytes()
                place = [storages[storage.data_ptr()], storage.nbytes(), x.storage_offset()]
                dtype = str(x.dtype).removeprefix("torch.")
                return {"tensor": [*place, dtype, list(x.shape), list(x.stride()), str(x.device)]}
            if isinstance(x, Mapping):
                return {k: encode(v) for k, v in x.items()}
            return [encode(v) for v in x] if isinstance(x, list | tuple) else x

        encoded = encode(value)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(encoded))
    return path


def read(path: Path) -> Any:
    """What :func:`write` wrote."""
    data = path.with_suffix(".bin").read_bytes()
    storages: dict[tuple[int, int, str], torch.UntypedStorage] = {}

    def decode(x: Any) -> Any:
        if isinstance(x, list):
            return [decode(v) for v in x]
        if not isinstance(x, dict):
            return x
        if x.keys() != {"tensor"}:
            return {k: decode(v) for k, v in x.items()}
        start, count, first, dtype, shape, stride, device = x["tensor"]
        if (start, count, device) not in storages:
            flat = torch.empty(count, dtype=torch.uint8)
            if count:
                flat.copy_(torch.frombuffer(bytearray(data[start : start + count]), dtype=torch.uint8))
            storages[start, count, device] = flat.to(device).untyped_storage()
        empty = torch.empty(0, dtype=getattr(torch, dtype), device=device)
        return empty.set_(storages[start, count, device], first, shape, stride)  # type: ignore[call-overload]

    return decode(json.loads(path.read_text()))


def program_json(program: Program) -> dict[str, Any]:
    return asdict(program)


def program_from(value: Mapping[str, Any]) -> Program:
    tuples = {k: tuple(value[k]) for k in ("wanted", "given")}
    return Program(**{**value, **tuples})
