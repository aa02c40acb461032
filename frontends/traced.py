"""The tensor that a traced function sees: it has a shape of symbolic sizes and no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch

from .errors import DataDependentError, LeakedTracerError, MutationError
from .locate import user_line, with_text
from .sizes import graph_number

if TYPE_CHECKING:
    from .graph import Node
    from .tracer import Tracer


class Memory:
    """What a tensor and its views share: how often it has been written."""

    __slots__ = ("outside", "owner", "version")

    def __init__(self, owner: Traced):
        self.owner, self.version = owner, 0
        self.outside = False  # memory that the caller sees


class Traced(torch.Tensor):
    """A value of the trace.  ``node`` changes when the tensor is written in place."""

    tracer: Tracer
    memory: Memory
    version: int
    _node: Node

    @staticmethod
    def __new__(cls, tracer: Tracer, node: Node) -> Traced:
        # PyTorch reads the element type and device of this shell; its shape is never asked for
        with torch._C.DisableTorchFunction():
            self = torch.Tensor._make_wrapper_subclass(
                cls, (1,) * len(node.shape), dtype=node.dtype, device=tracer.device
            )
        self.tracer, self._node = tracer, node
        self.memory, self.version = Memory(self), 0
        return self

    def __init__(self, *args: Any) -> None:
        pass

    if TYPE_CHECKING:  # methods that rules call: each gives another value of the trace

        def __getitem__(self, index: Any) -> Traced: ...
        def to(self, *args: Any, **kwargs: Any) -> Traced: ...
        def expand(self, *size: Any, implicit: bool = ...) -> Traced: ...
        def reshape(self, *shape: Any) -> Traced: ...
        def squeeze(self, *dim: Any) -> Traced: ...

    @property
    def node(self) -> Node:
        """The current value.  Raises :class:`MutationError` for a view of a tensor written since."""
        if self.version != self.memory.version:
            raise MutationError(
                f"{with_text(user_line())}: reads a view of a tensor that was changed in place after the view was "
                "taken; take the view again, or write the result to a new tensor"
            )
        return self._node

    def write(self, node: Node) -> None:
        """Give the tensor a new value, as an in-place op does."""
        if self.memory.outside:
            name = self.memory.owner._node.name
            raise MutationError(
                f"{with_text(user_line())}: in-place write to {name}, which the caller would see; "
                f"compute a new tensor, or start from {name}.clone()"
            )
        if self.memory.owner is not self:
            raise MutationError(
                f"{with_text(user_line())}: in-place write to a view; write to the tensor itself "
                "(x[..., 0] = y) or make a new one"
            )
        self._node = node
        self.memory.version += 1
        self.version = self.memory.version

    # ---- what Python code asks of a tensor

    @property  # type: ignore[misc]
    def shape(self) -> torch.Size:  # type: ignore[override]
        return torch.Size([graph_number(self.tracer.graph, e) for e in self._node.shape])

    def size(self, dim: int | None = None) -> Any:  # type: ignore[override]
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self._node.shape)

    ndim = property(dim)  # type: ignore[assignment]
    ndimension = dim

    def numel(self) -> Any:
        total: Any = 1
        for e in self._node.shape:
            total = total * graph_number(self.tracer.graph, e)
        return total

    nelement = numel

    @property  # type: ignore[misc]
    def device(self) -> torch.device:  # type: ignore[override]
        return self.tracer.device

    @property  # type: ignore[misc]
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self._node.dtype

    @property  # type: ignore[misc]
    def requires_grad(self) -> bool:  # type: ignore[override]
        return False

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def element_size(self) -> int:
        return self.dtype.itemsize

    def __len__(self) -> int:
        if not self._node.shape:
            raise DataDependentError(f"{with_text(user_line())}: len() of a tensor without dimensions")
        return self.tracer.graph.specialise(self._node.shape[0])

    def __iter__(self) -> Any:
        return iter([self[n] for n in range(len(self))])

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<{self._node}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return self._needs_data("a Python branch on a tensor's values", "use torch.where, or branch on sizes")

    def _needs_data(self, what: str, advice: str) -> NoReturn:
        raise DataDependentError(
            f"{with_text(user_line())}: {what} cannot be compiled, for the values exist only when it runs; {advice}"
        )

    def item(self) -> NoReturn:  # type: ignore[override]
        self._needs_data("reading a tensor's value into Python (item)", "keep it a tensor, or pass a Python number")

    def tolist(self) -> NoReturn:
        self._needs_data("reading a tensor's values into Python (tolist)", "keep them in a tensor")

    def numpy(self, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        self._needs_data("turning a tensor into an array (numpy)", "keep it a tensor")

    __int__ = __float__ = __index__ = __complex__ = item  # type: ignore[assignment]

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        self.numpy()

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self._needs_data("copying a tensor with deepcopy", "use clone()")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in (*args, *(kwargs or {}).values()):
            if isinstance(x, Traced) and x.tracer.active:
                return x.tracer.dispatch(func, args, kwargs or {})
        raise LeakedTracerError(
            f"{with_text(user_line())}: a tensor of an earlier trace is used outside it; it was kept in a global, an "
            "attribute or a cache (functools.lru_cache) while the function was compiled"
        )

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise LeakedTracerError(
            f"{with_text(user_line())}: {func} met a tensor of a trace in a way that attnc cannot see"
        )
