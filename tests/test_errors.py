"""Every class of error: the mistake that leads to it, what it says, and the place that it points to.

What a user can do wrong comes first, then what only shows in generated or hand-written IR.  A class without a row
here fails the last test.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from xdsl.dialects.builtin import ArrayAttr

import attnc
from attnc.backends import UnknownBackendError, get_backend
from attnc.backends.mlir_cpu import errors as cpu_errors
from attnc.backends.mlir_cpu import mlir_c
from attnc.backends.mlir_cpu.jit import compile_object
from attnc.backends.mlir_cpu.object_file import load_object
from attnc.backends.mlir_cpu.target import target_named
from attnc.backends.triton import errors as gpu_errors
from attnc.backends.triton import launch as triton_launch
from attnc.backends.triton import static
from attnc.backends.triton.targets import target_named as gpu_target
from attnc.compiler import driver, errors, explain, oracle, pictures, rivals, targets, validation
from attnc.compiler.analysis import bounds, cost, space
from attnc.compiler.autotune import errors as tuning_errors
from attnc.compiler.cli import inputs as cli_inputs
from attnc.compiler.pass_manager import parse_passes
from attnc.compiler.passes import UnknownPassError, differentiate, inner_products, load_pass
from attnc.compiler.passes.simplify_masks import SimplifyMasks
from attnc.compiler.plan import Plan
from attnc.compiler.settings import Settings
from attnc.compiler.zoo import systems as zoo
from attnc.frontends.errors import UnknownSizeError
from attnc.frontends.programs import program
from attnc.ir import attn, interpret_tile
from attnc.ir.attributes import Dim
from attnc.ir.errors import IRSyntaxError, IRVerifyError
from attnc.ir.expr import parse
from attnc.ir.text import parse_module
from attnc.ir.tile import kernels_of

HERE = r"test_errors.py:\d+: "


def attention(q: Any, k: Any, v: Any) -> Any:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def sorted_weights(q: Any, k: Any, v: Any) -> Any:
    return (q @ k.mT).softmax(-1).sort(-1).values @ v


def branch(q: Any) -> Any:
    return q if (q > 0).any() else -q


def write(q: Any) -> Any:
    q += 1
    return q


def places(q):
    rows, _columns = torch.triu_indices(q.shape[0], q.shape[0])
    return rows + torch.ones(6)


def strides(q: Any) -> Any:
    return q.as_strided((2, 2), (1, 1))


HIDDEN = itertools.repeat(torch.ones(8))


def unknown(q: Any) -> Any:
    return q + next(HIDDEN)


def qkv(*shape: int, **kinds: Any) -> list[Tensor]:
    return [torch.ones(shape or (1, 2, 12, 8), **kinds) for _ in range(3)]


def call(fn: Callable[..., Any], *tensors: Any, **kwargs: Any) -> Any:
    return attnc.compile(fn, backend="reference", **kwargs)(*tensors)


def lowered() -> Any:
    return attnc.compile(attention, backend="reference").lower(*qkv())


def leak() -> None:
    kept: list[Tensor] = []

    def leaky(q: Tensor) -> Tensor:
        kept.append(q)
        return q + 1

    attnc.compile(leaky).trace(torch.ones(2))
    kept[0] + 1


def second_gradient() -> None:
    q, k, v = qkv(requires_grad=True)
    out = attnc.compile(attention, backend="cpu", fallback="error")(q, k, v)
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    first.sum().backward()


def nested() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls nested tensors a prototype
        x = torch.nested.nested_tensor([torch.ones(2, 3, 4), torch.ones(2, 5, 4)])
    return call(attention, x, x, x)


def jit_trace() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises against it, too
        torch.jit.trace(attnc.compile(attention), tuple(qkv()))


def too_large() -> None:
    with mock.patch.object(oracle, "available_memory", return_value=1 << 20):
        attnc.validate(attention, *qkv(1, 2, 3000, 8))


def twice(q: Any, k: Any, v: Any) -> Any:
    return attention(attention(q, k, v), k, v)


def rival() -> None:
    rivals.single(attnc.compile(twice, backend="reference").lower(*qkv()).module("attn"), qkv())


def without_triton() -> None:
    with mock.patch.dict("sys.modules", {"triton.compiler": None}):
        get_backend("triton").compile(kernel(DOUBLING), target="sm_90", stages=("ptx",))


def without_torch_mlir() -> None:
    mlir_c.library.cache_clear()  # what was found before
    with mock.patch.dict("sys.modules", {"torch_mlir": None}):
        compile_object("", "k")


def tune_into(storage: str) -> None:
    attnc.autotune(attention, *qkv(), trials=1, storage=storage)


def missing_size() -> None:
    found = lowered()
    found.hints = {}
    explain.explain(found)


def launcher(backend: str) -> Any:
    engine = get_backend(backend)
    return engine.load(engine.compile(kernel(DOUBLING)))


def huge_grid() -> None:
    with mock.patch.object(triton_launch, "_bind", return_value=mock.Mock(side_effect=OverflowError("too many tasks"))):
        launcher("triton")([torch.ones(3), torch.ones(3)], {"B": 3})


def kernel(text: str) -> Any:
    return next(iter(kernels_of(parse_module(text)).values()))


def run_passes_wrongly() -> None:
    with mock.patch.object(SimplifyMasks, "apply", forget_the_mask):
        attnc.compile(causal, backend="reference", options={"verify": "each"}).lower(*qkv()).ir("tile")


def causal(q: Any, k: Any, v: Any) -> Any:
    keep = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return (q @ k.mT).masked_fill(~keep, float("-inf")).softmax(-1) @ v


def forget_the_mask(self: Any, ctx: Any, module: Any) -> None:
    for op in module.walk():
        if isinstance(op, attn.AttendOp):
            op.sources = ArrayAttr([attn.SourceAttr(replace(op.source_list[0], mask=parse("True")))])


def break_a_pass() -> None:
    with mock.patch.object(SimplifyMasks, "apply", side_effect=ZeroDivisionError):
        attnc.compile(causal, backend="reference").lower(*qkv()).ir("tile")


FUNC = """
attn.func @f(%x: !attn.tensor<"N", f32>) guards [] {
  attn.return %x : !attn.tensor<"N", f32>
}
"""
DOUBLING = """
tile.kernel @k(%x: !tile.mem<1, f32>, %y: !tile.mem<1, f32>) outputs 1 grid "b < B" rows "i, 0, 16, 16" {
  %t = tile.load %x at <"i"> : !tile.mem<1, f32> -> !tile.tile<"i:16", f32>
  tile.store %t, %y at <"i"> : !tile.tile<"i:16", f32> -> !tile.mem<1, f32>
}"""
MEETING = """
tile.kernel @k(%x: !tile.mem<2, f64>, %y: !tile.mem<1, f64>) outputs 1
  grid "b < B, t < 2" sequential 1 rows "i, t * 2, 2, 4" {
  %t = tile.load %x at <"b, i"> : !tile.mem<2, f64> -> !tile.tile<"i:2", f64>
  tile.store %t, %y at <"i"> add : !tile.tile<"i:2", f64> -> !tile.mem<1, f64>
}"""


@dataclass(frozen=True)
class Mistake:
    """``make`` commits it; ``message`` must be found in what the error says."""

    kind: type[Exception]
    make: Callable[[], Any]
    message: str


MISTAKES = [
    # a call
    Mistake(attnc.NotAFunctionError, lambda: attnc.compile(3), "takes a function"),  # type: ignore[call-overload]
    Mistake(attnc.UsageError, lambda: attnc.compile(attention, backend="tritn"), "did you mean 'triton'"),
    Mistake(attnc.ArgumentError, lambda: call(lambda n: n, 3), HERE + ".*at least one tensor argument, found none"),
    Mistake(attnc.ArgumentError, nested, HERE + "q is a nested tensor, expected a dense one"),
    Mistake(attnc.ArgumentError, lambda: call(attention, *[x.to_sparse() for x in qkv()]), HERE + r".*q\.to_dense"),
    Mistake(attnc.RankError, lambda: call(attention, *qkv(12)), HERE + ".*the tensor has 1"),
    Mistake(attnc.DtypeError, lambda: call(attention, *qkv(dtype=torch.int64)), HERE + ".*int64"),
    Mistake(
        attnc.DeviceError,
        lambda: call(attention, torch.ones(1, 2, 3, 4), *qkv(1, 2, 3, 4, device="meta")[1:]),
        "k is on meta, but q is on cpu",
    ),
    Mistake(
        attnc.ShapeError,
        lambda: call(attention, torch.ones(1, 2, 3, 4), *qkv(1, 2, 3, 5)[1:]),
        HERE + ".*sizes D = 4 and D_k = 5 must be equal",
    ),
    Mistake(attnc.DataDependentError, lambda: call(branch, torch.ones(3)), HERE + ".*use torch.where"),
    Mistake(attnc.MutationError, lambda: call(write, torch.ones(3)), HERE + r".*q\.clone"),
    Mistake(attnc.UnsupportedOpError, lambda: call(strides, torch.ones(3)), HERE + ".*as_strided"),
    Mistake(UnknownSizeError, lambda: call(places, torch.ones(3)), HERE + ".*needs to know"),
    Mistake(attnc.UnknownTensorError, lambda: call(unknown, torch.ones(8)), HERE + ".*pass it as an argument"),
    Mistake(attnc.LeakedTracerError, leak, HERE + ".*earlier trace"),
    Mistake(attnc.FallbackError, lambda: call(sorted_weights, *qkv(), fallback="error"), HERE + ".*stay eager"),
    Mistake(attnc.GradientNotAvailable, second_gradient, HERE + r".*torch\.no_grad"),
    Mistake(attnc.ProgramError, lambda: program("f_0123"), "the function f was compiled: call it once"),
    Mistake(attnc.TransformError, jit_trace, r"torch\.export"),
    # an option
    Mistake(errors.OptionError, lambda: Settings.of({"cache": "perhaps"}), "one of on, off, refresh"),
    Mistake(errors.BackendError, lambda: driver.select_backend("cpu", torch.device("meta")), "cannot run on meta"),
    Mistake(errors.StageError, lambda: lowered().ir("atn"), "did you mean 'attn'"),
    Mistake(errors.PipelineError, lambda: parse_passes("simplify-masks{depth=3}"), "simplify-masks.*depth"),
    Mistake(UnknownPassError, lambda: load_pass("simplfy"), "there is no pass 'simplfy'; passes: "),
    Mistake(UnknownBackendError, lambda: get_backend("cuda"), "choose one of"),
    Mistake(cost.UnknownTargetError, lambda: cost.device("vax"), "no target 'vax'; targets: "),
    Mistake(cpu_errors.CpuTargetError, lambda: target_named("cpu-sse"), "no CPU target 'cpu-sse'; targets: "),
    Mistake(gpu_errors.UnknownTargetError, lambda: gpu_target("sm_1"), "no GPU target 'sm_1'; choose one of"),
    Mistake(gpu_errors.TritonMissingError, without_triton, "pip install 'triton"),
    Mistake(cpu_errors.CpuCompileError, without_torch_mlir, "needs the package torch-mlir"),
    Mistake(space.ChoiceError, lambda: space.Choice.read("64x96"), "cannot read the choice '64x96'; write it as"),
    # tuning
    Mistake(
        attnc.TuningError,
        lambda: attnc.autotune(attnc.compile(attention, backend="reference"), *qkv()),
        "attention leaves nothing to tune: the reference backend interprets it",
    ),
    Mistake(tuning_errors.StorageError, lambda: tune_into("nosuch://here"), "nosuch://here fails.*sqlite:///"),
    Mistake(attnc.TunedFileError, lambda: attnc.load_tuned("nowhere.json"), "cannot read nowhere.json: No such file"),
    # a question
    Mistake(
        validation.ValidationError, lambda: attnc.validate(attention, *[torch.ones(3).int()] * 3), "none of the arg"
    ),
    Mistake(oracle.EagerTooLargeError, too_large, "use fewer tokens"),
    Mistake(explain.MissingSizeError, missing_size, r"no value for the sizes .*; pass sizes="),
    Mistake(rivals.NoRivalError, rival, "more than one attention"),
    Mistake(pictures.PictureError, lambda: lowered().explain().plot(path="a.txt"), "must end in .png"),
    # the command line
    Mistake(targets.TargetError, lambda: targets.load_target("nowhere.py:f"), "no such file: nowhere.py"),
    Mistake(targets.UsageError, lambda: targets.load_target("nowhere.py:f"), "no such file: nowhere.py"),
    Mistake(cli_inputs.InputsError, lambda: cli_inputs.parse_sizes("B=1,H"), "cannot read 'H' in --shape 'B=1,H'"),
    Mistake(zoo.ZooError, lambda: zoo.folder("nowhere"), "there is no zoo in nowhere: .* --path"),
    # IR by hand
    Mistake(IRSyntaxError, lambda: parse_module("attn.func @f("), r"<input>:1:14"),
    Mistake(IRVerifyError, lambda: parse_module(DOUBLING.replace('<"i">', '<"i, i">', 1)), "tile.load"),
    Mistake(
        differentiate.DifferentiationError,
        lambda: parse_passes("differentiate{wanted=y}")[0].apply(None, parse_module(FUNC)),
        "f has no argument y; it has x",
    ),
    Mistake(
        inner_products.NotABandError,
        lambda: inner_products.check(parse("inner(p[i, d], r[i + j, d])"), "i", "j"),
        r"the score holds inner.*such as r\[i - j\]",
    ),
    Mistake(
        interpret_tile.TasksMeetError,
        lambda: interpret_tile.run_kernel(
            kernel(MEETING), [torch.ones(3, 4).double(), torch.ones(4).double()], {"B": 3}
        ),
        "two tasks of a kernel write the same element",
    ),
    Mistake(
        bounds.UnboundedExprError,
        lambda: bounds.max_over(parse("i * (N - i)"), [Dim("i", parse("N"))]),
        "no closed-form bound over .*; write it with",
    ),
    # a kernel, a plan or a file of the cache that somebody else made
    Mistake(cpu_errors.ObjectFileError, lambda: load_object(b"MZ" + bytes(99), int), "not a little-endian 64-bit ELF"),
    Mistake(cpu_errors.ArgumentError, lambda: launcher("cpu")([torch.ones(3, 3)] * 2, {"B": 1}), "argument"),
    Mistake(
        gpu_errors.WrongDeviceError,
        lambda: launcher("triton")([torch.ones(3, device="meta")] * 2, {"B": 1}),
        "not on meta",
    ),
    Mistake(gpu_errors.GridTooLargeError, huge_grid, "too many tasks"),
    Mistake(
        gpu_errors.StaticToolError,
        lambda: static.report(get_backend("triton").compile(kernel(DOUBLING), target="sm_90")),
        "stage ptx",
    ),
    Mistake(errors.InputError, lambda: Plan.from_json('{"format": 99}', {}, None), "format 99"),
    # attnc itself
    Mistake(errors.PassVerifyError, run_passes_wrongly, "simplify-masks"),
    Mistake(errors.InternalError, break_a_pass, "replay"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[m.kind.__name__ for m in MISTAKES])
def test_the_class_the_words_and_the_place(mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    driver.forget()
    with pytest.raises(mistake.kind, match=mistake.message) as found:
        mistake.make()
    said = str(found.value)
    assert isinstance(found.value, attnc.AttncError)
    assert "Traceback" not in said
    assert not re.search(r" at 0x[0-9a-f]+|<(function|object)", said), said
    assert len(said) < 1500


# Base classes, and what a caller inside catches.
NOT_RAISED = {
    attnc.AttncError,
    cpu_errors.UnsupportedKernelError,
    gpu_errors.UnsupportedKernelError,
    tuning_errors.WrongResultError,  # the tuner's worker catches it: the candidate failed, and this is the reason
}


def test_every_class_has_a_row() -> None:
    for part in ("ir", "compiler", "frontends", "backends"):
        package = importlib.import_module(f"attnc.{part}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found: set[type[Exception]] = set()
    waiting: list[type[Exception]] = [attnc.AttncError]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += kind.__subclasses__()
    ours = {k for k in found if k.__module__.startswith("attnc.")}
    assert {k.__name__ for k in ours - NOT_RAISED - {m.kind for m in MISTAKES}} == set()
