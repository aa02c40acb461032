"""Printed kernels, run by Triton's interpreter, against the definition in float64."""

import pytest
import torch

from .helpers import Case, check

PATTERNS = {
    "dense": Case(),
    "causal": Case(mask="j <= i"),
    "window": Case(mask="abs(i - j) <= 9"),
    "empty_rows": Case(mask="j < i - 30"),
    "dilated": Case(mask="(i - j) % 3 == 0 and (i - j) // 7 <= 1"),
    "dilated_by_4": Case(mask="(i - j) % 4 == 0 and (i - j) // 8 >= -1"),
    "soft_cap": Case(score="lambda dot: 20.0 * tanh(dot * 0.125 / 20.0)"),
    "alibi": Case(score="lambda dot: dot * 0.125 - abs(i - j) * exp2(-0.5 * (h + 1))"),
    "sigmoid": Case(score="lambda dot: sigmoid(dot) + sqrt(abs(dot)) + pow(dot * 0.1, 3) + sin(dot) * cos(dot)"),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name):
    case = PATTERNS[name]
    check(case, case.inputs(n=65, m=67))


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
@pytest.mark.parametrize("width, value_width", [(64, 64), (5, 80), (1, 3)])
def test_types_and_widths(dtype, width, value_width):
    case = Case(dtype=dtype, width=width, value_width=value_width, mask="j <= i + 20")
    check(case, case.inputs(n=37, m=63))


@pytest.mark.parametrize("n, m", [(1, 1), (63, 65), (0, 5), (3, 0), (1, 130), (131, 7)])
def test_lengths(n, m):
    check(Case(), Case().inputs(n=n, m=m))
    causal = Case(mask="j <= i")
    check(causal, causal.inputs(n=n, m=m))


def test_strides():
    q, k, v = Case().inputs(n=33, m=45)
    wide = torch.randn(1, 45, 2, 128)
    rows_first = q.transpose(1, 2).contiguous().transpose(1, 2)
    check(Case(), [rows_first, wide[..., ::2].transpose(1, 2), v.mT.contiguous().mT])
    check(Case(), [q, k[:, :1].expand_as(k), v])


def test_captured_bias_out_of_its_range_where_masked():
    case = Case(
        mask="abs(i - j) <= 40",
        score="lambda dot: dot * 0.1 + bias[h, i - j + 40]",
        captures={"bias": ("H, 81", "f32")},
    )
    check(case, [*case.inputs(), torch.randn(2, 81)])


def test_captured_scalar_documents_and_padding():
    case = Case(
        mask="doc.int[b, i] == doc.int[b, j] and not pad.bool[b, j]",
        score="lambda dot: dot / temperature[()]",
        captures={"doc": ("B, N", "i64"), "pad": ("B, M", "i1"), "temperature": ("", "f32")},
    )
    captured = [torch.arange(65)[None] // 9, torch.rand(1, 65) < 0.3, torch.tensor(7.0)]
    check(case, [*case.inputs(), *captured])


def test_grouped_heads():
    case = Case(key="b, h // 2, j, d", value="b, h // 2, j, e", key_shape="B, H2, M")
    check(case, case.inputs(h=4, key_heads=2))


def test_blocks():
    case = Case(
        over="b < B, h < H, g < N // 16, i < 16",
        query="b, h, g * 16 + i, d", key="b, h, g * 16 + j, d", value="b, h, g * 16 + j, e",
        out="b, h, g * 16 + i, e", lse="b, h, g * 16 + i", keys="16", tiles="16x16",
    )  # fmt: skip
    check(case, case.inputs(n=48, m=48))


def test_residues():
    case = Case(
        over="b < B, h < H, r < 3, i < (N - r + 2) // 3",
        query="b, h, i * 3 + r, d", key="b, h, j * 3 + r, d", value="b, h, j * 3 + r, e",
        out="b, h, i * 3 + r, e", lse="b, h, i * 3 + r", keys="(M - r + 2) // 3", mask="abs(i - j) <= 4",
        tiles="16x16",
    )  # fmt: skip
    check(case, case.inputs(n=65, m=65))


def test_tiles_that_are_no_power_of_two():
    case = Case(tiles="5x24", mask="j <= i")
    check(case, case.inputs(n=23, m=50))


@pytest.mark.parametrize("kind", ["partial", "full"])
@pytest.mark.parametrize("m", [1, 64, 100])
def test_several_ranges(kind, m):
    ranges = '["0, min(M, 32)", "max(32, 0), min(M, 70)", "M, M - 5", "max(70, 0), M"]'
    case = Case(
        mask="j <= i" if kind == "partial" else "True",
        tiles="16x16",
        edit=lambda text: text.replace('["0, M"]', ranges),
    )
    check(case, case.inputs(n=40, m=m))


def test_loops_of_different_steps():
    def split(text):
        # two loops: the first half of the keys 16 at a time, the rest 32 at a time
        lines = text.splitlines()
        first = next(n for n, line in enumerate(lines) if "tile.for" in line)
        end = next(n for n in range(first, len(lines)) if lines[n].strip() == "}")
        loop = "\n".join(lines[first : end + 1])
        one = loop.replace('["0, M"]', '["0, M // 2"]')
        two = loop.replace('["0, M"]', '["M // 2, M"]').replace("step 16", "step 32").replace("j:16", "j:32")
        names = one.strip().split(" = ")[0].split(", ")
        for name in names:
            one = one.replace(f"{name}, ", f"{name}_first, ", 1) if name != names[-1] else one
        one = one.replace(f"{names[-1]} = tile.for", f"{names[-1]}_first = tile.for", 1)
        starts = [part.split(" = ")[1] for part in two.split("carry (")[1].split(")")[0].split(", ")]
        for name, start in zip(names, starts, strict=True):
            two = two.replace(f"= {start}", f"= {name}_first", 1)
        return "\n".join([*lines[:first], one, two, *lines[end + 1 :]])

    case = Case(tiles="16x16", edit=split)
    check(case, case.inputs(n=20, m=75))
