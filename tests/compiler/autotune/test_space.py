"""What may be chosen, from the cost model's candidates and the backend's ways to launch."""

from __future__ import annotations

import pytest
import torch

import attnc
from attnc.compiler.autotune.space import MOST, WORSE, space_of
from tests.patterns import BY_NAME

SIZES = (1, 2, 256, 256, 32)


def lowered(name: str, backend: str = "cpu", target: str | None = None, options: dict[str, str] | None = None, **kind):
    compiled = attnc.compile(BY_NAME[name].fn, backend=backend, fallback="silent", options=options)
    return compiled.lower(*BY_NAME[name].inputs(*SIZES, **kind), target=target)


@pytest.mark.parametrize("name", ["dilated", "hierarchical"])
@pytest.mark.parametrize("backward", [False, True])
def test_candidates_compile_and_differ_from_the_default(name: str, backward: bool):
    low = lowered(name)
    low = low.backward() if backward else low
    space = space_of(low)
    assert 1 <= len(space.candidates) <= MOST
    assert len({c.text for c in space.candidates}) == len(space.candidates)
    assert space.own not in {c.text for c in space.candidates}
    times = [c.predicted for c in space.candidates]
    assert times == sorted(times)
    assert times[-1] <= WORSE * times[0] or len(times) == 1
    assert all(set(c.params) == set(space.choices) for c in space.candidates)
    assert all(name in ("choice", "gradient_choice") for c in space.candidates for name, _ in c.options)


@pytest.mark.parametrize(
    "name, target, more",
    [
        ("dense", "sm_80", set()),
        ("causal", "sm_80", {"persistent"}),  # whose tasks differ in length
        ("dense", "sm_90", {"descriptors"}),
        ("dense", "sm_100", {"descriptors", "warp_specialize"}),
        ("dense", "gfx942", set()),
    ],
)
def test_a_gpu_also_chooses_how_to_launch(name: str, target: str, more: set[str]):
    space = space_of(lowered(name, "triton", target, dtype=torch.bfloat16))
    assert {"rows", "keys", "num_warps", "num_stages"} | more == set(space.choices)
    assert any(not dict(c.options).get("launch") for c in space.candidates)


def test_a_launch_reaches_the_kernel():
    low = lowered("dense", "triton", "sm_90", {"launch": "num_warps=8,num_stages=1"})
    (artifact,) = low.artifacts("triton")
    assert (artifact.meta["num_warps"], artifact.meta["num_stages"]) == (8, 1)


@pytest.mark.parametrize(
    "name, target, launch, default, changed",
    [
        ("dense", "sm_90", "descriptors=0", "make_tensor_descriptor", ""),
        ("dense", "sm_100", "warp_specialize=1", "", "warp_specialize=True"),
        ("causal", "sm_90", "persistent=2", "", "num_programs"),
    ],
)
def test_a_launch_reaches_the_printed_kernel(name: str, target: str, launch: str, default: str, changed: str):
    inputs = [x.bfloat16() for x in BY_NAME[name].inputs(*SIZES)]
    texts = []
    for options in ({}, {"launch": launch}):
        compiled = attnc.compile(BY_NAME[name].fn, backend="triton", fallback="silent", options=options)
        (artifact,) = compiled.lower(*inputs, target=target).artifacts("triton")
        texts.append(artifact.payload.decode())  # the module without the IR that is quoted in its check
    for word, (there, not_there) in ((default, texts), (changed, texts[::-1])):
        assert not word or (word in there and word not in not_there)


@pytest.mark.parametrize(
    "backend, launch, message",
    [
        ("triton", "num_wraps=8", "cannot set 'num_wraps'; did you mean 'num_warps'"),
        ("triton", "num_warps=x", "cannot read 'num_warps=x'"),
        ("cpu", "num_warps=8", "leaves nothing to choose"),
    ],
)
def test_a_launch_that_there_is_not(backend: str, launch: str, message: str):
    target = "sm_90" if backend == "triton" else None
    with pytest.raises(attnc.OptionError, match=message):
        lowered("dense", backend, target, {"launch": launch}).source()


def test_the_kernel_of_a_candidate_is_right():
    pattern = BY_NAME["dilated"]
    inputs = pattern.inputs(*SIZES)
    space = space_of(lowered("dilated"))
    compiled = attnc.compile(pattern.fn, fallback="error", options=dict(space.candidates[-1].options))
    torch.testing.assert_close(compiled(*inputs), compiled.eager(*inputs))
