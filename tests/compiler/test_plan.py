"""Plans: what they compute, what they refuse, and that JSON keeps them whole."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

from attnc.backends.api import Artifact
from attnc.compiler.errors import InputError
from attnc.compiler.plan import CallGradientStep, CallStep, LaunchStep, Plan, ReorderStep, ScatterStep, TensorSpec
from attnc.compiler.plan_reorder import affine
from attnc.ir.errors import IRSyntaxError
from attnc.ir.expr import parse
from attnc.ir.interpret import interpret
from attnc.ir.text import parse_module

ARTIFACTS = {"double": Artifact("fake", "double", {}, b"")}


def load(artifact):
    """A backend whose one kernel doubles its input."""

    def launch(tensors, sizes):
        x, out = tensors
        assert sizes == {"B": x.shape[0], "N": x.shape[1]}
        out.copy_(2 * x)

    assert artifact is ARTIFACTS["double"]
    return launch


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name, shape, dtype)


def launch(source, out):
    return LaunchStep("double", "double", (source,), (spec(out, "B", "N"),), ("B", "N"))


def plan(*steps, inputs=(spec("x", "B", "N"),), results=("y",), guards=(), sizes=None, **rest):
    sizes = {"B": (0, 0), "N": (0, 1)} if sizes is None else sizes
    return Plan("f", "fake", inputs, sizes, guards, steps, results, artifacts=ARTIFACTS, load=load, **rest)


def test_runs_kernels_and_calls():
    p = plan(
        launch("x", "y"),
        CallStep("torch.relu(x0)[:, :N // 2]", ("y",), (spec("z", "B", "N // 2"),)),
        results=("z", "y"),
    )
    x = torch.randn(3, 8)
    z, y = p.run([x])
    assert torch.equal(y, 2 * x)
    assert torch.equal(z, (2 * x).relu()[:, :4])


def test_json_round_trip():
    p = plan(
        launch("x", "y"),
        ReorderStep("y", ("B", "N"), ("x1", "x0"), ("x1", "x0"), spec("z", "N", "B")),
        CallStep("x0 + 1", ("z",), (spec("w", "N", "B"),), "a.py:3"),
        results=("w",),
        guards=("N % 2 == 0",),
        device_type="cpu",
    )
    again = Plan.from_json(p.to_json(), ARTIFACTS, load)
    assert again.to_json() == p.to_json()
    assert again.steps == p.steps
    assert again.source == p.source
    x = torch.randn(2, 4)
    assert torch.equal(again.run([x])[0], (2 * x).T + 1)


def test_another_format_is_refused():
    with pytest.raises(InputError, match="format 99"):
        Plan.from_json('{"format": 99}', {})


@pytest.mark.parametrize(
    "tensors, message",
    [
        ([], r"takes 2 tensors \(x, y\), found 0"),
        ([torch.zeros(2, 3, 4), torch.zeros(3)], "x has 3 dimensions, expected 2"),
        ([torch.zeros(2, 4), torch.zeros(3)], r"y has shape \(3,\), expected \(4,\) = \(N\)"),
        ([torch.zeros(2, 4).double(), torch.zeros(4)], "x is float64, expected float32"),
        ([torch.zeros(2, 3), torch.zeros(3)], r"N % 2 == 0 does not hold \(B = 2, N = 3\)"),
        ([torch.zeros(2, 4), torch.zeros(4, device="meta")], "on several devices: cpu, meta"),
        ([torch.zeros(2, 4, device="meta"), torch.zeros(4, device="meta")], "on meta, expected cpu"),
    ],
)
def test_wrong_arguments(tensors, message):
    p = plan(
        CallStep("x0 + x1", ("x", "y"), (spec("z", "B", "N"),)),
        inputs=(spec("x", "B", "N"), spec("y", "N")),
        results=("z",),
        guards=("N % 2 == 0",),
        device_type="cpu",
    )
    with pytest.raises(InputError, match=message):
        p.run(tensors)


def test_guards_with_scalars():
    p = plan(launch("x", "y"), guards=("N % 2 == 0", "temp[()] > 0.5 and N > 0"))
    assert p.guards_hold({"N": 4, "temp": 0.75})
    assert not p.guards_hold({"N": 4, "temp": 0.25})
    assert not p.guards_hold({"N": 5, "temp": 0.75})


def test_sizes_bound_by_a_call():
    p = plan(
        CallStep("torch.unique(x0)", ("x",), (spec("u", "M"),)),
        CallStep("torch.full((M, N // M if M > 0 else 1), 2.0)", (), (spec("y", "M", "N // M"),)),
        results=("y",),
    )
    assert p.run([torch.tensor([[1.0, 1.0, 2.0, 3.0]])])[0].shape == (3, 1)


def test_gradients_of_calls():
    step = CallGradientStep(
        "(x0 * x1, x1 * N)", ("x", "w"), (1, 0), ("b", "a"), (1, 0),
        (spec("dw", "N"), spec("dx", "B", "N")),
    )  # fmt: skip
    p = plan(
        CallStep("x0.relu()", ("v",), (spec("w", "N"),)),
        step,
        inputs=(spec("x", "B", "N"), spec("a", "B", "N"), spec("b", "N"), spec("v", "N")),
        results=("dx", "dw"),
    )
    again = Plan.from_json(p.to_json(), ARTIFACTS, load)
    assert again.steps == p.steps
    x, a = torch.randn(2, 2, 4)
    b, v = torch.randn(2, 4)
    w = v.relu()
    dx, dw = again.run([x, a, b, v])
    torch.testing.assert_close(dx, a * w)
    torch.testing.assert_close(dw, (a * x).sum(0) + b * 4)


def test_scatter():
    step = ScatterStep(
        "x",
        (("i", "B"), ("j", "min(i + 1, N)")),
        ("table.int[j]", "i % 2"),
        (("table", "t"),),
        spec("y", "N + 1", "2"),
    )
    p = plan(step, inputs=(spec("x", "B", "N"), spec("t", "N", dtype="int64")))
    again = Plan.from_json(p.to_json(), ARTIFACTS, load)
    assert again.steps == p.steps
    x, t = torch.randn(5, 3), torch.tensor([3, 0, 3])
    expected = torch.zeros(4, 2)
    for i in range(5):
        for j in range(min(i + 1, 3)):
            expected[t[j], i % 2] += x[i, j]
    torch.testing.assert_close(again.run([x, t])[0], expected)


def test_outputs_that_are_added_to_start_at_zero():
    def adding(artifact):
        return lambda tensors, sizes: tensors[1].add_(tensors[0])

    step = LaunchStep("add", "double", ("x",), (spec("y", "B", "N"),), (), zeroed=("y",))
    x = torch.randn(4, 5)
    p = plan(step)
    p.load = adding
    assert torch.equal(p.run([x])[0], x)


def test_saved_values_are_kept_when_asked_for():
    p = plan(launch("x", "a"), launch("a", "b"), launch("b", "y"), saved=("a", "y"))
    x = torch.randn(2, 3)
    results, saved = p.attempt_saving([x])
    assert saved[1] is results[0]
    assert torch.equal(saved[0], 2 * x)
    assert torch.equal(p.run([x])[0], 8 * x)
    assert p.attempt_saving([x.double()]) is None
    assert Plan.from_json(p.to_json(), ARTIFACTS, load).saved == p.saved


def test_empty_outputs_are_not_launched():
    p = plan(LaunchStep("double", "double", ("x",), (spec("y", "B", "N"),), ()))  # a launch would fail
    assert p.run([torch.zeros(0, 5)])[0].shape == (0, 5)


def test_temporaries_are_freed_early():
    alive = []
    seen = []

    def spy(artifact):
        run = load(artifact)

        def launch_(tensors, sizes):
            gc.collect()
            alive.append([r() is not None for r in seen])
            seen.append(weakref.ref(tensors[1]))
            run(tensors, sizes)

        return launch_

    p = plan(launch("x", "a"), launch("a", "b"), launch("b", "y"))
    p.load = spy
    p.run([torch.zeros(2, 3)])
    assert alive == [[], [True], [False, True]]


def test_threads():
    p = plan(launch("x", "a"), launch("a", "y"))
    right = []

    def work(value):
        x = torch.full((value % 7 + 1, 5), float(value))
        right.extend([torch.equal(p.run([x])[0], 4 * x) for _ in range(50)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert right == [True] * 400


@pytest.mark.parametrize(
    "step, message",
    [
        (CallStep("__import__('os').system('true')", ("x",), (spec("y", "B", "N"),)), "may not contain"),
        (CallStep("torch.os.system('true')", ("x",), (spec("y", "B", "N"),)), "may not contain"),
        (CallStep("x1 + 1", ("x",), (spec("y", "B", "N"),)), "uses x1, which has no value"),
        (CallStep("x0", ("x",), (spec("a = 1; y", "B", "N"),)), "may not"),
        (CallStep("x0", ("q",), (spec("y", "B", "N"),)), "reads q before it is computed"),
        (LaunchStep("double", "double", ("x",), (spec("y", "B", "K"),), ()), "uses K, but K has no value"),
        (CallStep("x0", ("x",), (spec("y", "B", "N", dtype="os"),)), "names dtypes that this PyTorch lacks: os"),
        (CallStep("x0", ("x",), (spec("device", "B", "N"),)), "uses 'device' as a name"),
        (CallGradientStep("x0 * K", ("x",), (0,), ("x",), (0,), (spec("y", "B", "N"),)), "uses K, which has no value"),
        (CallGradientStep("x0", ("x",), (0,), ("g",), (0,), (spec("y", "B", "N"),)), "reads g before it is computed"),
        (ScatterStep("x", (("i", "B"),), ("i",), (("t", "t"),), spec("y", "B")), "reads t before it is computed"),
    ],
)
def test_a_damaged_plan_runs_no_code(step, message):
    with pytest.raises((InputError, IRSyntaxError), match=message):
        plan(step).run([torch.zeros(2, 2)])


def test_a_call_that_breaks_its_promise():
    p = plan(CallStep("x0.double()", ("x",), (spec("a", "B", "N"),), "a.py:7"), launch("a", "y"))
    with pytest.raises(InputError, match=r"'x0.double\(\)' \(a.py:7\) gave float64 \(2, 3\).*expects float32 \(2, 3\)"):
        p.run([torch.zeros(2, 3)])


REORDERS = {
    "permute": ("A, B, C", "C, A, B", "x1, x2, x0", "x2, x0, x1"),
    "split": ("A, B, C", "A, B // 2, 2, C", "x0, x1 * 2 + x2, x3", "x0, x1 // 2, x1 % 2, x2"),
    "merge": ("A, B, C", "A * B, C", "x0 // B, x0 % B, x1", "x0 * B + x1, x2"),
    "residues": ("A, B, C", "A, 2, B // 2, C", "x0, x2 * 2 + x1, x3", "x0, x1 % 2, x1 // 2, x2"),
    "windows": (
        "A, B, C",
        "A * (B // 2), 2, C",
        "x0 // (B // 2), x0 % (B // 2) * 2 + x1, x2",
        "x0 * (B // 2) + x1 // 2, x1 % 2, x2",
    ),
    "roll": ("A, B, C", "A, B, C", "x0, (x1 + 3) % B, x2", "x0, (x1 - 3) % B, x2"),
    "flip": ("A, B, C", "A, B, C", "x0, B - 1 - x1, x2", "x0, B - 1 - x1, x2"),
    "swap halves": ("A, B, C", "A, B, C", "x0, where(x1 < B // 2, x1 + B // 2, x1 - B // 2), x2",
                    "x0, where(x1 < B // 2, x1 + B // 2, x1 - B // 2), x2"),
    "new axis": ("A, B, C", "A, 1, B, C", "x0, x2, x3", "x0, 0, x1, x2"),
}  # fmt: skip


def reorder(name):
    before, after, index, inverse = REORDERS[name]
    step = ReorderStep("x", _parts(before), _parts(index), _parts(inverse), spec("y", *_parts(after)))
    old, new = (f'!attn.tensor<"{shape}", f32>' for shape in (before, after))
    module = f"""attn.func @f(%x: {old}) {{
      %y = attn.reorder %x index "{index}" inverse "{inverse}" : {old} -> {new}
      attn.return %y : {new}
    }}"""
    sizes = {"A": (0, 0), "B": (0, 1), "C": (0, 2)}
    return plan(step, inputs=(spec("x", "A", "B", "C"),), sizes=sizes), parse_module(module)


def _parts(text):
    parts, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return tuple(p.strip() for p in parts)


@pytest.mark.parametrize("shape", [(3, 8, 5), (1, 2, 1), (0, 4, 3), (2, 6, 0)])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "stepped"])
@pytest.mark.parametrize("name", REORDERS)
def test_reorders_match_the_interpreter(name, layout, shape):
    a, b, c = shape
    x = {
        "contiguous": torch.randn(a, b, c),
        "transposed": torch.randn(c, b, a).permute(2, 1, 0),
        "stepped": torch.randn(2 * a, 2 * b, 3 * c)[1::2, ::2, 2::3],
    }[layout]
    p, module = reorder(name)
    assert torch.equal(p.run([x])[0], interpret(module, [x])[0])


@pytest.mark.parametrize("name", ["permute", "split", "merge", "residues", "new axis"])
def test_views_do_not_copy(name):
    p, _ = reorder(name)
    x = torch.randn(2, 4, 3)
    assert p.run([x])[0].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", REORDERS)
def test_reorders_are_differentiable(name):
    p, _ = reorder(name)
    x = torch.randn(2, 4, 3, requires_grad=True)
    y = p.run([x])[0]
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    inverse = plan(
        ReorderStep("x", _parts(REORDERS[name][1]), _parts(REORDERS[name][3]), _parts(REORDERS[name][2]),
                    spec("y", "A", "B", "C")),
        inputs=(spec("z", "A", "B", "C"), spec("x", *_parts(REORDERS[name][1]))),
        sizes={"A": (0, 0), "B": (0, 1), "C": (0, 2)},
    )  # fmt: skip
    assert torch.equal(x.grad, inverse.run([x.detach(), weight])[0])


def test_affine():
    assert affine(parse("x0 * W + x1 * 2 - 3"), ["x0", "x1"]) == ({"x0": parse("W"), "x1": parse("2")}, parse("-3"))
    assert affine(parse("x0 // 2"), ["x0"]) is None
    assert affine(parse("x0 * x1"), ["x0", "x1"]) is None
