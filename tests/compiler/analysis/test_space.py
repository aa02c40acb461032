"""Tuning spaces: candidates are valid and distinct, texts are read back, options force choices."""

from __future__ import annotations

import pytest
import torch

import attnc
from attnc.compiler.analysis.cost import choose_gradient_tiles, choose_tiles
from attnc.compiler.analysis.devices import DEVICES, device
from attnc.compiler.analysis.space import Choice, ChoiceError, candidates, read_choices, text_of
from attnc.compiler.analysis.work import Work
from attnc.compiler.spaces import space_of
from attnc.ir.attn import Source
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import parse
from attnc.ir.gradient import AttendGradientOp

from ...numerics import assert_gradients_match, assert_matches, gradients
from ...patterns import BY_NAME


def work(width: int, dtype: str) -> Work:
    source = Source("j", parse("N"), (), (), parse("j <= i"))
    return Work(DimsAttr.read("b < B, h < H, i < N"), (source,), width, width, dtype)


@pytest.mark.parametrize("target", sorted(DEVICES))
@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
@pytest.mark.parametrize("width", [5, 64, 128])
def test_candidates_are_distinct_and_hold_the_choice(target: str, dtype: str, width: int) -> None:
    on = device(target)
    for gradient, choose in ((False, choose_tiles), (True, choose_gradient_tiles)):
        found = candidates(work(width, dtype), on, gradient)
        assert len(set(found)) == len(found) > 0
        assert all(Choice.read(str(c)) == c for c in found)
        assert Choice(*choose(work(width, dtype), target)) in found


def test_wide_heads_get_tiles_that_fit_a_stack() -> None:
    on = device("cpu-avx512-amx")
    for gradient in (False, True):
        most = [max(candidates(work(width, "bf16"), on, gradient)) for width in (64, 256, 512, 2048)]
        assert most == sorted(most, reverse=True)
        assert most[0].rows == 256
        assert most[-1].rows < 128


def test_texts() -> None:
    choices = (Choice(64, 96), Choice(16, 192))
    assert text_of(choices) == "rows=64,keys=96; rows=16,keys=192"
    assert read_choices(text_of(choices)) == choices
    assert read_choices(" rows = 64 , keys = 96 ") == choices[:1]
    assert read_choices("") == ()
    for text in ("rows=64", "keys=96,rows=64", "rows=0,keys=4", "rows=64,keys=4096", "rows=64,keys=96;"):
        with pytest.raises(ChoiceError):
            read_choices(text)


def inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 2, 101, 20), (1, 2, 67, 20), (1, 2, 67, 12)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def test_an_option_forces_a_choice() -> None:
    options = {"choice": "rows=16,keys=24", "gradient_choice": "rows=32,keys=48"}
    lowered = attnc.compile(BY_NAME["causal"].fn, backend="cpu", options=options).lower(*inputs())
    assert [k.tiles for k in lowered.explain().kernels] == [(16, 24)]
    (gradient,) = [o for o in lowered.backward().after("choose-tiles").walk() if isinstance(o, AttendGradientOp)]
    assert gradient.tiles is not None
    assert gradient.tiles.data == (32, 48)


def both(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return BY_NAME["dense"].fn(q, k, v) + BY_NAME["causal"].fn(q, k, v)


def test_as_many_choices_as_attentions() -> None:
    def tiles(choice: str) -> list[tuple[int, int]]:
        lowered = attnc.compile(both, backend="cpu", options={"choice": choice}).lower(*inputs())
        assert len(space_of(lowered).works) == 2
        return [k.tiles for k in lowered.explain().kernels]

    assert tiles("rows=16,keys=24; rows=32,keys=48") == [(16, 24), (32, 48)]
    assert tiles("rows=16,keys=24") == [(16, 24)] * 2
    for choice in ("; ".join(["rows=16,keys=24"] * 3), "keys=24"):
        with pytest.raises(ChoiceError):
            tiles(choice)


def test_the_best_comes_first_and_is_the_choice_at_its_length() -> None:
    lowered = attnc.compile(BY_NAME["causal"].fn, backend="cpu").lower(*inputs())
    for space in (space_of(lowered), space_of(lowered.backward())):
        (found,) = space.candidates
        times = [space.predicted([c]) for c in found]
        assert times == sorted(times)
        assert all(t > 0 for t in times)
        assert space.predicted(found[:1], threads=2) < times[0]


@pytest.mark.parametrize("pattern, dtype", [("causal_window", "float32"), ("dilated", "bfloat16")])
def test_every_candidate_gives_right_numbers(pattern: str, dtype: str) -> None:
    function, tensors = BY_NAME[pattern].fn, inputs(getattr(torch, dtype))
    lowered = attnc.compile(function, backend="cpu").lower(*tensors)
    for space in (space_of(lowered), space_of(lowered.backward())):
        assert space.works
        for choice in space.candidates[0]:
            compiled = attnc.compile(function, backend="cpu", fallback="error", options={space.option: str(choice)})
            if space.option == "choice":
                assert_matches(function, compiled(*tensors).detach(), [x.detach() for x in tensors])
            else:
                assert_gradients_match(function, gradients(compiled, tensors)[0], tensors, where=str(choice))
