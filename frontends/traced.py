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


_PACKED = frozenset({"full", "arange", "constant"})  # ops whose results are contiguous


class Memory:
    """What a tensor and its views share: when it was last written."""

    __slots__ = ("outside", "owner", "unclear", "version")

    def __init__(self, owner: Traced, version: int = 0):
        self.owner, self.version = owner, version
        self.outside = False  # memory that the caller sees
        self.unclear = False  # a write may have changed it


class Traced(torch.Tensor):
    """A value of the trace.  ``node`` changes when the tensor, or what it is a view of, is written in place.

    ``base`` is the tensor that this is a view of; it ``shares`` memory with it, or may be a copy.
    """

    tracer: Tracer
    base: Traced | None
    shares: bool
    version: int
    packed: bool  # surely contiguous, where this is no view
    _memory: Memory
    _node: Node
    _view: Node | None  # the op that made this of its base; None where this is the base under another name

    @staticmethod
    def __new__(cls, tracer: Tracer, node: Node) -> Traced:
        # PyTorch reads the element type and device of this shell; its shape is never asked for
        with torch._C.DisableTorchFunction():
            self = torch.Tensor._make_wrapper_subclass(
                cls, (1,) * len(node.shape), dtype=node.dtype, device=tracer.device
            )
        self.tracer, self._node = tracer, node
        self.base, self.shares, self._view = None, True, None
        self.packed = node.op in _PACKED
        self._memory = Memory(self)
        self.version = 0
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
    def memory(self) -> Memory:
        return self._memory if self.base is None else self.base.memory

    @property
    def node(self) -> Node:
        """The current value.  Raises :class:`MutationError` where a write may or may not have changed it."""
        memory = self.memory
        if memory.unclear or (self.version != memory.version and not self.shares):
            raise MutationError(
                f"{with_text(user_line())}: reads a view of a tensor that was changed in place after the view was "
                "taken, and reshape or contiguous may have made it a copy; use view, or clone before the write"
            )
        if self.version != memory.version:
            assert self.base is not None, "the owner is written first"
            base = self.base.node
            self._node = base if self._view is None else self.tracer.again(self._view, base)
            self.version = memory.version
        return self._node

    def become_view(self, base: Traced, shares: bool) -> None:
        """Share memory with ``base``; ``shares`` is False where PyTorch copies for some layouts."""
        self._view = None if base.node is self._node else self._node
        self.base, self.shares, self.version = base, shares, base.memory.version

    def write(self, node: Node) -> None:
        """Give the tensor a new value, as an in-place op does; what it is a view of, and other views, follow."""
        memory = self.memory
        if memory.outside:
            name = memory.owner._node.name
            raise MutationError(
                f"{with_text(user_line())}: in-place write to {name}, which the caller would see; "
                f"compute a new tensor, or start from {name}.clone()"
            )
        if self.base is None:
            memory.version = self.tracer.tick()
        elif self.shares:
            base = self.base.node
            self.base.write(node if self._view is None else self.tracer.put_back(self._view, base, node))
        else:
            memory.unclear = True
            self.base, self._memory = None, Memory(self, self.tracer.tick())
        self._node, self.version = node, self.memory.version

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
