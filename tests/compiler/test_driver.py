"""The driver: caches, backends, errors, crash folders, and what a warm process imports."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading

import pytest
import torch

from attnc.backends.api import Artifact
from attnc.compiler import driver, lowering, plan_build
from attnc.compiler.driver import build, build_gradient, forget, lower, select_backend
from attnc.compiler.errors import BackendError, InternalError, OptionError, PipelineError, StageError
from attnc.compiler.passes import load_pass
from attnc.ir.errors import AttncError
from attnc.ir.text import parse_module, print_module
from attnc.ir.tile import kernels_of

CPU = torch.device("cpu")
QKV = '!attn.tensor<"B, H, N, 8", f32>'
LSE = '!attn.tensor<"B, H, N", f32>'


def attend(q, o, mask="i >= j"):
    return f"""%{o}, %{o}_lse = attn.attend over "b < B, h < H, i < N"
    query %{q} "b, h, i, d" width 8
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "{mask}" score "lambda dot: dot * 0.25"
    normaliser softmax tiles "16 x 8"
    out "b, h, i, e" width 8 lse "b, h, i" attributes {{at = "a.py:3"}}
    : ({QKV}, {QKV}, {QKV}) -> ({QKV}, {LSE})"""


def text(body, results="%y", types=QKV, guards=""):
    return f"""attn.func @f(%q: {QKV}, %k: {QKV}, %v: {QKV}) {guards} {{
  {body}
  attn.return {results} : {types}
}}"""


CAUSAL = text(attend("q", "o") + f'\n  %y = attn.call "torch.relu(x0)"(%o) : ({QKV}) -> {QKV}')


def reference(module, *tensors):
    from attnc.ir.interpret import interpret

    return interpret(parse_module(module), list(tensors))


class Fake:
    """A backend that keeps the kernel's text and interprets it; counts what it is asked."""

    name = "cpu"

    def __init__(self):
        self.compiled, self.broken, self.version = [], None, "1"

    def fingerprint(self):
        return self.version

    def pipeline_options(self, dtype, device, target=None):
        return {"narrow": False, "target": "reference", "fused": False}

    def compile(self, kernel, *, stages=(), target=None):
        if self.broken:
            raise self.broken
        self.compiled.append(kernel.sym_name.data)
        from xdsl.dialects.builtin import ModuleOp

        payload = print_module(ModuleOp([kernel.clone()])).encode()
        return Artifact("cpu", kernel.sym_name.data, {s: f"{s} of {kernel.sym_name.data}" for s in stages}, payload)

    def load(self, artifact):
        if artifact.payload.startswith(b"bad"):
            raise RuntimeError("bad payload")

        def launch(tensors, sizes):
            from attnc.ir.interpret import run_kernel

            (kernel,) = kernels_of(parse_module(artifact.payload.decode())).values()
            run_kernel(kernel, tensors, sizes)

        return launch


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The fake as the cpu backend, a pipeline of the one pass that is always needed, an empty cache."""
    backend = Fake()
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "cache"))
    for module in (lowering, driver, plan_build):
        monkeypatch.setattr(module, "load_backend", lambda _: backend)
    monkeypatch.setattr(lowering, "need_package", lambda _: None)
    monkeypatch.setattr(
        "attnc.compiler.pipelines.forward", lambda target, narrow, sizes: [load_pass("online-softmax")(narrow)]
    )
    monkeypatch.setattr("attnc.compiler.pipelines._domain", lambda target, sizes: [])
    forget()
    yield backend
    forget()


class Maker:
    """Parses a module and counts the times."""

    def __init__(self, module):
        self.module, self.calls = module, 0

    def __call__(self):
        self.calls += 1
        return parse_module(self.module)


def make(module=CAUSAL, key=None, **rest):
    maker = module if isinstance(module, Maker) else Maker(module)
    return build(key or maker.module, maker, backend="cpu", dtype="f32", device=CPU, **rest)


def qkv(b=2, h=2, n=19):
    return [torch.randn(b, h, n, 8, generator=torch.Generator().manual_seed(s)) for s in range(3)]


def test_builds_and_runs(fake):
    plan = make()
    assert plan.kernels == ["f_kernel"]
    tensors = qkv()
    torch.testing.assert_close(plan.run(tensors), reference(CAUSAL, *tensors))


def test_reference_backend_interprets_the_program(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    forget()
    maker = Maker(CAUSAL)
    for _ in range(2):
        plan = build(CAUSAL, maker, backend="reference", dtype="f32", device=CPU)
        assert torch.equal(plan.run(qkv())[0], reference(CAUSAL, *qkv())[0])
        forget()
    assert maker.calls == 1


def test_empty_sizes(fake):
    plan = make()
    assert plan.run(qkv(n=0))[0].shape == (2, 2, 0, 8)
    assert plan.run(qkv(b=0))[0].shape == (0, 2, 19, 8)


def test_no_keys_give_zeros_and_minus_infinity(fake):
    tensor = '!attn.tensor<"B, H, M, 8", f32>'
    module = text(attend("q", "o").replace('"j < N"', '"j < M"'), "%o, %o_lse", f"{QKV}, {LSE}")
    module = module.replace(f"%k: {QKV}, %v: {QKV}", f"%k: {tensor}, %v: {tensor}")
    module = module.replace(f"({QKV}, {QKV}, {QKV})", f"({QKV}, {tensor}, {tensor})")
    q, k, v = qkv()
    o, lse = make(module).run([q, k[:, :, :0], v[:, :, :0]])
    assert torch.equal(o, torch.zeros_like(q))
    assert torch.equal(lse, torch.full(q.shape[:-1], -torch.inf))


def test_memory_then_disk_then_build(fake):
    maker = Maker(CAUSAL)
    first = make(maker)
    assert make(maker) is first
    forget()
    again = make(maker)
    assert again is not first
    assert again.to_json() == first.to_json()
    assert torch.equal(again.run(qkv())[0], first.run(qkv())[0])
    assert maker.calls == 1
    assert fake.compiled == ["f_kernel"]


@pytest.mark.parametrize("change", ["key", "dtype", "fingerprint", "skip"])
def test_what_changes_code_misses(fake, change):
    maker = Maker(CAUSAL)
    make(maker)
    args = {"backend": "cpu", "dtype": "f32", "device": CPU}
    if change == "fingerprint":
        fake.version = "2"
    if change == "dtype":
        args["dtype"] = "bf16"
    options = {"skip": "key-ranges"} if change == "skip" else {}
    build(CAUSAL + " " * (change == "key"), maker, options=options, **args)
    assert maker.calls == 2


def test_a_damaged_entry_is_rebuilt(fake):
    maker = Maker(CAUSAL)
    make(maker)
    (path,) = [p for p in driver.disk_cache().entries.rglob("*") if p.is_file()]
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + b"\0\0\0")
    forget()
    torch.testing.assert_close(make(maker).run(qkv()), reference(CAUSAL, *qkv()))
    assert maker.calls == 2
    assert path.read_bytes() == whole


def test_an_entry_that_does_not_load_is_rebuilt(fake, caplog):
    make()
    (entry,) = driver.disk_cache().load(next(driver.disk_cache().entries.iterdir()).name)
    bad = {k: Artifact(a.backend, a.kernel, {}, b"bad", a.meta) for k, a in entry.artifacts.items()}
    driver.disk_cache().store(next(driver.disk_cache().entries.iterdir()).name, type(entry)(entry.plan, bad))
    forget()
    make().run(qkv())
    assert "cannot be used and is built again: bad payload" in caplog.text


def test_cache_modes(fake):
    maker = Maker(CAUSAL)
    make(maker, options={"cache": "off"})
    assert driver.disk_cache().stats().entries == 0
    forget()
    make(maker)
    forget()
    make(maker, options={"cache": "refresh"})
    assert maker.calls == 3
    assert driver.disk_cache().stats().entries == 1


def test_variants_by_guards(fake):
    """One captured text may compile under different facts about sizes."""
    even = text(attend("q", "y"), guards='guards ["N % 2 == 0"]')
    odd = text(attend("q", "y"), guards='guards ["N % 2 == 1"]')
    plans = []
    for _ in range(2):
        plans += [make(even, key="same", hints={"B": 1, "H": 1, "N": 18}), make(odd, key="same", hints={"N": 19})]
        forget()
    assert [p.guards for p in plans] == [("N % 2 == 0",), ("N % 2 == 1",)] * 2
    assert fake.compiled == ["f_kernel", "f_kernel"]


def test_equal_kernels_are_compiled_once(fake):
    body = attend("q", "a") + "\n  " + attend("a", "b") + "\n  " + attend("b", "y", mask="i > j")
    plan = make(text(body))
    assert plan.kernels == ["f_kernel0", "f_kernel1", "f_kernel2"]
    assert fake.compiled == ["f_kernel0", "f_kernel2"]
    torch.testing.assert_close(plan.run(qkv()), reference(text(body), *qkv()))


def test_dead_ops_are_dropped(fake):
    module = CAUSAL.replace(
        "attn.return %y", f'%z = attn.call "torch.exp(x0)"(%o) : ({QKV}) -> {QKV}\n  attn.return %y'
    )
    assert "exp" not in make(module).source


def test_one_build_for_many_threads(fake):
    maker = Maker(CAUSAL)
    plans = []
    threads = [threading.Thread(target=lambda: plans.append(make(maker))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert maker.calls == 1
    assert len({id(p) for p in plans}) == 1


def test_build_after_fork_with_a_lock_held(fake):
    make()
    with driver._lock("held"), driver._guard:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                forget()
                status = 0 if make().run(qkv()) else 1
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_verify_each_and_dump_are_not_cached_away(fake, tmp_path):
    make()
    make(options={"dump": tmp_path / "dump", "verify": "each"})
    (folder,) = (tmp_path / "dump").iterdir()
    assert [p.name for p in sorted(folder.iterdir())] == ["00-input.mlir", "01-online-softmax.mlir"]


# ---- gradients ------------------------------------------------------------------------------------------


def gradient(forward, module=CAUSAL, backend="cpu", wanted=(0, 1, 2), given=(0,)):
    maker = module if isinstance(module, Maker) else Maker(module)
    return build_gradient(
        maker.module, maker, wanted=wanted, given=given, forward=forward, backend=backend, dtype="f32", device=CPU
    )


def test_gradients_by_kernels_and_by_the_interpreter(fake):
    tensors, seed = qkv(), torch.randn(2, 2, 19, 8)
    found = []
    for backend in ("cpu", "reference"):
        if backend == "reference":
            fake.name = "reference"
        forward = build(CAUSAL, Maker(CAUSAL), backend=backend, dtype="f32", device=CPU)
        results, saved = forward.attempt_saving(tensors)
        assert len(saved) == 2
        torch.testing.assert_close(results, reference(CAUSAL, *tensors))
        plan = gradient(forward, backend=backend)
        assert [i.name for i in plan.inputs[:3]] == ["q", "k", "v"]
        found.append(plan.run([*tensors, *saved, seed]))
        only = gradient(forward, backend=backend, wanted=(2,)).run([*tensors, *saved, seed])
        torch.testing.assert_close(only, found[-1][2:])
    torch.testing.assert_close(*found)


def test_a_gradient_is_cached_by_what_it_is_of(fake):
    maker = Maker(CAUSAL)
    forward = make(maker)
    first = gradient(forward, maker)
    assert gradient(forward, maker) is first
    assert gradient(forward, maker, wanted=(1,)) is not first
    assert maker.calls == 3
    forget()
    assert gradient(make(maker), maker).to_json() == first.to_json()
    assert maker.calls == 3
    other = dataclasses.replace(forward, guards=("N % 2 == 0",))
    gradient(other, maker)
    assert maker.calls == 4


def test_a_function_without_a_gradient(fake):
    module = CAUSAL.replace("torch.relu(x0)", "torch.nn.functional.dropout(x0, 0.5, True)")
    with pytest.raises(AttncError, match=r"draws random numbers"):
        gradient(make(module), module)


# ---- choosing a backend, wrong options ------------------------------------------------------------------


@pytest.mark.parametrize(
    "backend, device, expected",
    [
        ("auto", "cpu", "cpu"),
        ("auto", "cuda", "triton"),
        ("triton", "cpu", "triton"),
        ("reference", "mps", "reference"),
    ],
)
def test_select(backend, device, expected):
    assert select_backend(backend, torch.device(device)) == expected


@pytest.mark.parametrize(
    "backend, device, message",
    [
        ("tritn", "cpu", "no backend 'tritn'; did you mean 'triton'\\? Known: auto, cpu, reference, triton"),
        ("auto", "mps", "no backend compiles for mps tensors"),
        ("cpu", "cuda", "the cpu backend cannot run on cuda tensors"),
        ("triton", "mps", "the triton backend cannot run on mps tensors"),
    ],
)
def test_select_errors(backend, device, message):

    with pytest.raises(BackendError, match=message):
        select_backend(backend, torch.device(device))


def test_missing_package(monkeypatch):
    monkeypatch.setattr(lowering, "find_spec", lambda _: None)
    with pytest.raises(
        BackendError, match="torch_mlir, which is not installed; install it with `pip install torch-mlir`"
    ):
        lowering.need_package("cpu")


def test_unknown_option(fake):
    with pytest.raises(OptionError, match="no option 'narow'; did you mean 'narrow'"):
        make(options={"narow": True})


def test_pass_options_reach_the_pass(fake):
    lowered = lower(CAUSAL, Maker(CAUSAL), backend="cpu", dtype="f32", device=CPU, options={"narrow": True})
    assert lowered.request.passes()[0].narrow


# ---- crashes --------------------------------------------------------------------------------------------


def test_a_crash_leaves_a_folder(fake, monkeypatch, tmp_path):
    def crash(self, ctx, op):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(load_pass("online-softmax"), "apply", crash)
    with pytest.raises(InternalError, match="lowering failed: ZeroDivisionError: oh") as info:
        make()
    folder = info.value.folder
    assert folder.parent == tmp_path / "cache" / "crashes"
    assert parse_module((folder / "input.mlir").read_text())
    command = (folder / "command.txt").read_text()
    assert command == f"attnc opt -p 'online-softmax' {folder / 'input.mlir'}\n"
    assert command.strip() in str(info.value)
    assert "ZeroDivisionError: oh" in (folder / "error.txt").read_text()
    assert f"torch {torch.__version__.split('+')[0]}" in (folder / "versions.txt").read_text()


def test_a_backend_crash_keeps_the_kernel(fake):
    fake.broken = RuntimeError("no register left")
    with pytest.raises(
        InternalError, match="compiling the kernel f_kernel for cpu failed: RuntimeError: no register left"
    ) as info:
        make()
    assert "tile.kernel @f_kernel" in (info.value.folder / "input.mlir").read_text()


def test_user_errors_pass_through(fake):
    fake.broken = AttncError("float8 is not supported")
    with pytest.raises(AttncError, match=r"^float8 is not supported$"):
        make()


# ---- lowered --------------------------------------------------------------------------------------------


def test_stages(fake):
    maker = Maker(CAUSAL)
    lowered = lower("the graph", maker, backend="cpu", dtype="f32", device=CPU)
    assert maker.calls == 0
    assert lowered.ir("capture") == "the graph"
    assert "attn.attend" in lowered.ir("attn")
    assert "tile.kernel" in lowered.ir("tile")
    assert lowered.ir("llvm") == "llvm of f_kernel"
    assert lowered.source() == "mlir of f_kernel"
    assert print_module(lowered.after("online-softmax")) == lowered.ir("tile")
    assert kernels_of(lowered.module("tile"))
    assert maker.calls == 1


def test_kernels_of_a_stage_are_titled(fake):
    body = attend("q", "a") + "\n  " + attend("a", "y")
    lowered = lower("k", Maker(text(body)), backend="cpu", dtype="f32", device=CPU)
    assert lowered.ir("llvm") == "; kernel f_kernel0\nllvm of f_kernel0\n; kernel f_kernel1\nllvm of f_kernel1"


def test_stage_errors(fake):
    lowered = lower("k", Maker(CAUSAL), backend="cpu", dtype="f32", device=CPU)
    with pytest.raises(StageError, match="no stage 'llmv'; did you mean 'llvm'"):
        lowered.ir("llmv")
    with pytest.raises(PipelineError, match="the pipeline has no pass 'dilation'"):
        lowered.after("dilation")


def test_target_decides_the_backend():
    for target, backend in [("sm_90", "triton"), ("gfx942", "triton"), ("cpu-avx2", "cpu")]:
        lowered = lower("k", Maker(CAUSAL), backend="auto", dtype="f32", device=CPU, target=target)
        assert lowered.backend == backend
    assert lowered.on("sm_80").backend == "triton"


# ---- fresh processes --------------------------------------------------------------------------------------


PROCESS = """
import sys, torch
from attnc.compiler.driver import build
module = open(sys.argv[1]).read()
def make():
    print("built")
    from attnc.ir.text import parse_module
    return parse_module(module)
plan = build(module, make, backend=sys.argv[2], dtype="f32", device=torch.device("cpu"))
x = torch.ones(1, 2, 5, 8)
if sys.argv[2] != "reference":
    print(plan.run([x, x, x])[0].sum().item())
heavy = ("xdsl", "torch_mlir", "triton", "islpy")
print(sorted(m for m in sys.modules if m.split(".")[0] in heavy) or "light")
"""


def process(tmp_path, backend):
    (tmp_path / "f.mlir").write_text(CAUSAL)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ATTNC_CACHE_DIR": str(tmp_path / "c")}
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "f.mlir"), backend]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_warm_process_imports_no_compiler(tmp_path, backend):
    cold = process(tmp_path, backend)
    assert cold[0] == "built"
    warm = process(tmp_path, backend)
    assert warm[-1] == "light"
    assert warm[:-1] == cold[1:-1]
