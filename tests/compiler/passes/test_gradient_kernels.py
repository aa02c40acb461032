"""Gradient kernels against the meaning of ``attn.attend_gradient``, before and after ``key-ranges``."""

from __future__ import annotations

import math

import pytest
import torch

from attnc.compiler.pass_manager import PassManager, parse_passes
from attnc.ir import attn, tile
from attnc.ir.dtypes import to_torch
from attnc.ir.expr import evaluate
from attnc.ir.interpret import bind_sizes, interpret
from attnc.ir.text import parse_module, verify

LENGTHS = [(2, 2, 19, 19), (1, 3, 33, 9), (1, 2, 1, 40), (2, 1, 0, 5), (1, 1, 5, 0)]


def tensor(sizes: str, element: str = "f64") -> str:
    return f'!attn.tensor<"{sizes}", {element}>'


def problem(
    *sources: str,
    over: str = "b < B, h < H, i < N",
    maps: tuple[str, str, str] = ("b, h, i, d", "b, h, i, e", "b, h, i"),
    shapes: tuple[str, str, str] = ("B, H, N, 8", "B, H, N, 5", "B, H, N"),
    arguments: dict[str, str] | None = None,
    wanted: str = '"query", "key0", "value0"',
    given: tuple[str, ...] = ("d_out", "d_lse"),
    tiles: str = "16 x 16",
    guards: str = "",
    units: str = "",
) -> str:
    """A function that gives one ``attn.attend_gradient``; ``arguments`` are more tensors, by name."""
    query, out, lse = (tensor(s) for s in shapes)
    default = (
        {"k": tensor("B, H, M, 8"), "v": tensor("B, H, M, 5")} if arguments is None or "k" not in arguments else {}
    )
    more = {**default, **(arguments or {})}
    rows = tensor(f"2, {shapes[2]}") if units else lse
    names = {"q": query, **more, "o": out, "rows": rows, "do": out, "dlse": lse}
    types = {"d_out": ("do", out), "d_lse": ("dlse", lse)}
    operands = ["q"]
    lines = [f"source {s}" for s in sources]
    keys = [line.split(" key %")[1].split()[0] for line in lines]
    values = [line.split(" value %")[1].split()[0] for line in lines]
    used = set(operands + keys + values)
    captures = [n for n in more if n not in used]
    operands += keys + values + captures + ["o", "rows"] + [types[g][0] for g in given]
    results = ", ".join(names[r] for r in _operand_names(wanted, keys, values, captures))
    found = ", ".join(f"%g{n}" for n in range(len(wanted.split(","))))
    newline = "\n"
    return f"""attn.func @f_gradient({", ".join(f"%{n}: {t}" for n, t in names.items())}) guards [{guards}] {{
      {found} = attn.attend_gradient of {wanted} over "{over}"
        query %q "{maps[0]}" width 8
        {newline.join(lines)}
        {newline.join(f"capture {c} = %{c}" for c in captures)}
        normaliser softmax tiles "{tiles}"
        out "{maps[1]}" width 5 lse "{maps[2]}" {f"weights {units}" if units else ""}
        given %o, %rows {" ".join(f"{g} %{types[g][0]}" for g in given)}
        : ({", ".join(names[o] for o in operands)}) -> ({results})
      attn.return {found} : {results}
    }}"""


def _operand_names(wanted: str, keys: list[str], values: list[str], captures: list[str]) -> list[str]:
    named = {"query": "q"} | {f"key{n}": k for n, k in enumerate(keys)} | {f"value{n}": v for n, v in enumerate(values)}
    named |= {f"capture:{c}": c for c in captures}
    return [named[w.strip().strip('"')] for w in wanted.split(",")]


def inputs_of(module, sizes: dict[str, int], seed: int = 0) -> list[torch.Tensor]:
    """Random arguments; ``o`` and ``rows`` are what the attention gives."""
    func = attn.func_of(module)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, arg in zip(func.names, func.args, strict=True):
        type = attn.tensor_type(arg)
        shape, dtype = [int(evaluate(s, sizes)) for s in type.shape], to_torch(type.element)
        if dtype.is_floating_point:
            tensors[name] = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        else:
            tensors[name] = torch.randint(0, 7, shape, generator=generator, dtype=dtype)
    (op,) = [o for o in func.body.block.ops if o.name == "attn.attend_gradient"]
    from attnc.ir.interpret_attn import attend

    by_value = dict(zip(func.args, tensors.values(), strict=True))
    operands = [by_value[v] for v in op.by_name.values()]
    rows = tensors["rows"]
    room = (rows[0].clone(), sizes, rows) if op.units else (rows, sizes)
    tensors["o"], *_, tensors["rows"] = attend(op, operands, tensors["o"], *room)
    assert bind_sizes(func, list(tensors.values())) == sizes
    return list(tensors.values())


def check(text: str, lengths=LENGTHS, options: str = "", names: str = "BHNM", **limits) -> None:
    source = parse_module(text)
    verify(source)
    lowered = PassManager(parse_passes(f"gradient-kernels{options}")).run(source.clone())
    verify(lowered)
    assert not any(op.name == "attn.attend_gradient" for op in lowered.walk())
    assert str(parse_module(str(lowered))) == str(lowered)
    ranged = PassManager(parse_passes("key-ranges")).run(lowered.clone())
    verify(ranged)
    for sizes in lengths:
        inputs = inputs_of(source, dict(zip(names, sizes, strict=True)))
        expected = interpret(source, inputs)
        for module in (lowered, ranged):
            for x, y in zip(interpret(module, inputs), expected, strict=True):
                assert x.dtype == y.dtype
                torch.testing.assert_close(x, y, msg=lambda m, s=sizes: f"at {s}: {m}", **limits)


def source(mask: str = "True", score: str = "lambda dot: dot * 0.25") -> str:
    return f'"j < M" key %k "b, h, j, d" value %v "b, h, j, e" mask "{mask}" score "{score}"'


@pytest.mark.parametrize(
    "mask", ["True", "False", "j <= i", "abs(i - j) <= 9", "j < 5 or i < 3", "(i + j) % 3 == 0", "i > 4 and j > 7"]
)
@pytest.mark.parametrize("options", ["", "{fused=true}", "{narrow=true}"])
def test_masks(mask: str, options: str) -> None:
    check(problem(source(mask)), options=options)


@pytest.mark.parametrize("units", ["base2", "natural"])
@pytest.mark.parametrize("given", [("d_out", "d_lse"), ("d_lse",)], ids=" ".join)
def test_weights_that_the_attention_kept(units: str, given: tuple[str, ...]) -> None:
    text = problem(source("j < i - 2", "lambda dot: dot * 0.25"), given=given, units=units)
    check(text)
    names = [k.sym_name.data for k in tile.kernels_of(lowered(text)).values()]
    assert "f_weights" not in names
    assert "f_weights" in [k.sym_name.data for k in tile.kernels_of(lowered(problem(source()))).values()]
    narrow = problem(source()).replace("f64", "bf16")  # the log-sum-exp is exact enough for these
    assert "f_weights" not in [k.sym_name.data for k in tile.kernels_of(lowered(narrow)).values()]


def lowered(text: str):
    return PassManager(parse_passes("gradient-kernels")).run(parse_module(text))


@pytest.mark.parametrize("options", ["", "{fused=true}"])
@pytest.mark.parametrize(
    ("key", "value", "shapes", "guards"),
    [
        ("b, 0, j, d", "b, 0, j, e", ("B, 2, M, 8", "B, 1, M, 5"), ""),  # every head sees one of the key heads
        ("j, d", "h, j, e", ("M, 8", "H, M, 5"), ""),
        ("b, h // 2, j, d", "b, h // 2, j, e", ("B, (H + 1) // 2, M, 8", "B, (H + 1) // 2, M, 5"), ""),
        ("b, h % 2, j, d", "b, h % 2, j, e", ("B, 2, M, 8", "B, 3, M, 5"), ""),
        ("b, h // 2, j, d", "b, j, e", ("B, H, M, 8", "B, M, 5"), ""),
        ("b, h, M - 1 - j, d", "b, h, (j + 3) % M, e", ("B, H, M, 8", "B, H, M, 5"), ""),
        ("b, h, min(j, 3), d", "b, h, j // 2, e", ("B, H, M + 4, 8", "B, H, M, 5"), ""),
    ],
)
def test_key_maps(options: str, key: str, value: str, shapes: tuple[str, str], guards: str) -> None:
    text = f'"j < M" key %k "{key}" value %v "{value}" mask "j <= i + 3" score "lambda dot: dot * 0.25"'
    arguments = {"x": tensor("M", "i64"), "k": tensor(shapes[0]), "v": tensor(shapes[1])}
    check(problem(text, arguments=arguments, guards=guards), options=options)


CAPTURES = {
    "bias[h]": "H",
    "bias[()]": "",
    "bias[b, h, i]": "B, H, N",
    "bias[i % 3]": "3",
    "bias[b, j]": "B, M",
    "bias[h, i, j]": "H, N, M",
    "bias[i, j]": "N, M",
    "bias[h, i - j + M]": "H, N + M",
    "bias[table.int[i], h]": "7, H",
    "bias[table.int[i] + j % 2, h]": "9, H",
    "bias[h, i - j + 4]": "H, 9",  # beyond the table where the mask is off
}


@pytest.mark.parametrize("options", ["", "{fused=true}"])
@pytest.mark.parametrize("read", CAPTURES)
def test_captured_tensors(options: str, read: str) -> None:
    arguments = {"bias": tensor(CAPTURES[read]), "table": tensor("N", "i64")}
    wanted = '"query", "key0", "value0", "capture:bias"'
    mask = "abs(i - j) <= 4" if "+ 4" in read else "True"
    for score in (f"lambda dot: dot * 0.25 + {read}", f"lambda dot: tanh(dot * {read}) * 3.0"):
        check(problem(source(mask, score), arguments=arguments, wanted=wanted), LENGTHS[:3], options=options)
    check(problem(source(mask, f"lambda dot: dot + {read}"), arguments=arguments, wanted='"capture:bias"'), LENGTHS[:1])


@pytest.mark.parametrize(
    ("read", "kernels", "rows"),
    [
        ("bias[b, h, i, j]", ["delta", "key0", "weights"], "j"),
        ("bias[h, i, j]", ["delta", "key0", "weights"], "j"),  # batches run in order there, heads at once
        ("bias[i, j]", ["bias", "delta", "key0", "weights"], "j"),
        ("bias[j, i]", ["bias", "delta", "key0", "weights"], "i"),  # rows are what lies side by side
    ],
)
def test_kernels_of_dense_biases(read: str, kernels: list[str], rows: str) -> None:
    shape = {"b": "B", "h": "H", "i": "N", "j": "M"}
    sizes = ", ".join(shape[axis] for axis in read[5:-1].split(", "))
    text = problem(
        source("True", f"lambda dot: dot + {read}"),
        arguments={"bias": tensor(sizes)},
        wanted='"query", "key0", "value0", "capture:bias"',
    )
    module = PassManager(parse_passes("gradient-kernels{fused=true}")).run(parse_module(text))
    found = {name.removeprefix("f_"): kernel for name, kernel in tile.kernels_of(module).items()}
    assert sorted(found) == kernels
    writer = found.get("bias", found["key0"])
    assert writer.rows.data.name == rows
    check(text, LENGTHS[:3], "{fused=true}")


def test_a_table_used_twice() -> None:
    read = "bias[h, i - j + M] + bias[h, j] * bias[h, 3] + bias[h, i - j + M]"
    arguments = {"bias": tensor("H, N + M + 4")}
    wanted = '"query", "key0", "value0", "capture:bias"'
    for options in ("", "{fused=true}"):
        check(
            problem(source(score=f"lambda dot: dot + {read}"), arguments=arguments, wanted=wanted), LENGTHS[:2], options
        )


SECOND = """"c < M // 2" key %s "b, h, c, d" value %z "b, h, c, e"
  mask "c < i // 2" score "lambda dot: dot * 0.5 + bias[h, c]\""""
SINK = '"n < 1" key %k "b, h, 0, d" value %z "b, h, 0, e" mask "True" score "lambda dot: bias[h, 3]"'


@pytest.mark.parametrize("options", ["", "{fused=true}"])
@pytest.mark.parametrize("other", [SECOND, SINK])
def test_several_sources(options: str, other: str) -> None:
    arguments = {"s": tensor("B, H, M // 2, 8"), "z": tensor("B, H, M // 2 + 1, 5"), "bias": tensor("H, M + 4")}
    wanted = '"query", "key0", "key1", "value0", "value1", "capture:bias"'
    text = problem(source("j <= i"), other, arguments=arguments, wanted=wanted)
    check(text, [s for s in LENGTHS if s[3] > 0], options=options)


@pytest.mark.parametrize("options", ["", "{fused=true}"])
@pytest.mark.parametrize("given", [("d_out",), ("d_lse",), ("d_out", "d_lse")])
@pytest.mark.parametrize("wanted", ['"query"', '"key0"', '"value0"', '"value0", "query"'])
def test_only_what_is_asked_for(options: str, given: tuple[str, ...], wanted: str) -> None:
    check(problem(source("j <= i"), wanted=wanted, given=given), LENGTHS[:2], options=options)


@pytest.mark.parametrize("mask", ["True", "j <= i", "abs(i - j) <= 9"])
def test_few_heads_with_many_keys(mask: str) -> None:
    """Key tiles in segments, each with a slice of the queries' gradient; the interpreter refuses tasks that meet."""
    check(problem(source(mask)), [(1, 1, 33, 131), (1, 3, 19, 128), (1, 1, 3, 127), (2, 2, 5, 130)], "{fused=true}")


def test_segments_of_groups_of_heads() -> None:
    """Heads that run in order do not count as tasks."""
    text = problem(
        source("j <= i").replace("b, h, j", "b, 0, j"), arguments={"k": tensor("B, 1, M, 8"), "v": tensor("B, 1, M, 5")}
    )
    check(text, [(1, 6, 21, 131), (1, 1, 20, 14)], "{fused=true}")


@pytest.mark.parametrize(
    ("sizes", "tasks"), [((1, 1, 128), 4), ((1, 3, 999), 12), ((1, 4, 999), 4), ((1, 1, 112), 1), ((0, 1, 200), 0)]
)
def test_tasks_of_few_heads(sizes: tuple[int, int, int], tasks: int) -> None:
    module = PassManager(parse_passes("gradient-kernels{fused=true}")).run(parse_module(problem(source("j <= i"))))
    kernel = tile.kernels_of(module)["f_key0"]
    parallel = kernel.grid.data[: len(kernel.grid.data) - kernel.sequential.data]
    env = dict(zip("BHM", sizes, strict=True))
    assert math.prod(int(evaluate(d.extent, env)) for d in parallel) == tasks


def test_enough_residues_need_no_segments() -> None:
    maps = ("b, h, i * 4 + r, d", "b, h, i * 4 + r, e", "b, h, i * 4 + r")
    keys = source().replace("j, ", "j * 4 + r, ").replace("j < M", "j < M // 4")
    text = problem(keys, over="b < B, h < H, r < 4, i < (N - r + 3) // 4", maps=maps)
    module = PassManager(parse_passes("gradient-kernels{fused=true}")).run(parse_module(text))
    grid = tile.kernels_of(module)["f_key0"].grid.text()
    assert grid == "b < B, h < H, r < 4, t < (M // 4 + 15) // 16"


RESIDUES = "b < B, h < H, r < 3, i < (N - r + 2) // 3"
BLOCKS = "b < B, h < H, g < (N + 6) // 7, i < min(7, N - g * 7)"


@pytest.mark.parametrize("options", ["", "{fused=true}"])
@pytest.mark.parametrize(
    ("over", "row", "keys", "key"),
    [
        (RESIDUES, "i * 3 + r", "j < (M - r + 2) // 3", "j * 3 + r"),
        (RESIDUES, "i * 3 + r", "j < (M - (M + r - N) % 3 + 2) // 3", "j * 3 + (M + r - N) % 3"),
        (BLOCKS, "g * 7 + i", "j < max(min(7, M - g * 7), 0)", "g * 7 + j"),
        (BLOCKS, "(g * 7 + i + 3) % N", "j < max(min(9, M - g * 7), 0)", "(g * 7 + j + 3) % M"),
    ],
)
def test_ragged_domains(options: str, over: str, row: str, keys: str, key: str) -> None:
    maps = f"b, h, {row}, d", f"b, h, {row}, e", f"b, h, {row}"
    text = f'"{keys}" key %k "b, h, {key}, d" value %v "b, h, {key}, e" mask "j <= i + 4"'
    text += ' score "lambda dot: dot * 0.25 + bias[h, i - j + 9]"'
    arguments, wanted = {"bias": tensor("H, N + M + 9")}, '"query", "key0", "value0", "capture:bias"'
    check(problem(text, over=over, maps=maps, arguments=arguments, wanted=wanted), LENGTHS[:4], options=options)


@pytest.mark.parametrize("options", ["", "{fused=true}", "{narrow=true}"])
@pytest.mark.parametrize("element", ["f32", "bf16"])
def test_narrow_types(options: str, element: str) -> None:
    wanted = '"query", "key0", "value0", "capture:bias"'
    text = problem(source("j <= i", "lambda dot: dot * 0.25 + bias[h, i - j + M]"), wanted=wanted,
                   arguments={"bias": tensor("H, N + M")})  # fmt: skip
    # the interpreter has the output before it is rounded; kernels take delta from what was stored
    limits = {"rtol": 2e-2, "atol": 8e-2} if element == "bf16" else {"rtol": 1e-4, "atol": 1e-5}
    text = text.replace("f64", element).replace(f'"B, H, N", {element}', '"B, H, N", f32')
    check(text, LENGTHS[:2], options=options, **limits)


@pytest.mark.parametrize("options", ["", "{fused=true}"])
def test_rows_of_nothing_but_fills(options: str) -> None:
    """Rows up to 3 see only keys at -1e9, where ``lse`` has lost the logarithm of how many."""
    score = "lambda dot: where(j < i - 3, dot * 0.25, -1000000000.0)"
    text = problem(source(score=score)).replace("f64", "f32")
    check(text, LENGTHS[:4], options=options, rtol=1e-4, atol=1e-5)


GROUP = "b < B, h < H, g < N // 12, i < 12"
GROUPED = ("b, h, g * 12 + i, d", "b, h, g * 12 + i, e", "b, h, g * 12 + i")


def groups(mask: str = "True", score: str = "lambda dot: dot * 0.25", **more: object) -> str:
    """Attention inside groups of 12 tokens."""
    line = source(mask, score).replace("j < M", "j < 12").replace("h, j, ", "h, g * 12 + j, ")
    own = {"k": tensor("B, H, N, 8"), "v": tensor("B, H, N, 5"), **more.pop("arguments", {})}  # type: ignore[dict-item]
    guards = '"N % 12 == 0"'
    return problem(line, over=GROUP, maps=GROUPED, arguments=own, guards=guards, **more)  # type: ignore[arg-type]


GROUP_LENGTHS = [(2, 3, 36), (1, 1, 12), (1, 1, 132), (1, 2, 0)]


@pytest.mark.parametrize("given", [("d_out", "d_lse"), ("d_out",), ("d_lse",)])
@pytest.mark.parametrize("mask", ["True", "j <= i", "i % 5 == j % 5 and g > 0", "j < i", "False"])
def test_small_groups(mask: str, given: tuple[str, ...]) -> None:
    check(groups(mask, given=given), GROUP_LENGTHS, "{fused=true}", names="BHN")


@pytest.mark.parametrize(
    "wanted", ['"query", "key0", "value0", "capture:table"', '"capture:table"', '"key0", "capture:table"']
)
@pytest.mark.parametrize(
    ("read", "shape"),
    [
        ("table[h, i - j + 11]", "H, 23"),
        ("table[(i - j) % 7]", "7"),
        ("table[b, h, i, j]", "B, H, 12, 12"),
        ("table[g, i, j]", "N, 12, 12"),
    ],
)
def test_a_table_of_small_groups(read: str, shape: str, wanted: str) -> None:
    """The pairs of few heads with many groups are added up in segments; the interpreter refuses tasks that meet."""
    table = {"table": tensor(shape)}
    check(
        groups("i != j", f"lambda dot: dot / 4.0 + {read}", arguments=table, wanted=wanted),
        GROUP_LENGTHS,
        "{fused=true}",
        names="BHN",
    )


def test_small_groups_take_one_kernel() -> None:
    """Nothing is measured before, and nothing but the table's gradient is added up in memory."""
    text = groups("i != j", "lambda dot: dot + table[h, i - j + 11]", arguments={"table": tensor("H, 23")},
                  wanted='"query", "key0", "value0", "capture:table"', given=("d_out",), units="base2")  # fmt: skip
    module = PassManager(parse_passes("gradient-kernels{fused=true},key-ranges")).run(parse_module(text))
    (kernel,) = tile.kernels_of(module).values()
    added = [op.memory for op in kernel.body.walk() if isinstance(op, tile.StoreOp) and op.add is not None]
    assert [kernel.names[kernel.args.index(memory)] for memory in added] == ["d_table"]


@pytest.mark.parametrize("lengths", [(1, 1, 99, 203), (2, 3, 97, 49), (1, 2, 5, 145), (1, 2, 48, 3)])
@pytest.mark.parametrize("near", [1, 2])
def test_keys_of_image_rows(near: int, lengths: tuple[int, int, int, int]) -> None:
    """Tiles of keys that lie in one row of an image; where there are few heads, rows go to segments."""
    mask = f"abs(i // 48 - j // 48) <= {near} and abs(i % 48 - j % 48) <= {near}"
    check(problem(source(mask)), [lengths], "{fused=true}")
    module = PassManager(parse_passes("gradient-kernels{fused=true}")).run(parse_module(problem(source(mask))))
    assert "y < (M + 47) // 48" in tile.kernels_of(module)["f_key0"].grid.text()
