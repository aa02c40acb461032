"""Loading: real files, damaged files, wrong devices, bfloat16 in the interpreter."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from attnc.backends import get_backend
from attnc.backends.triton.errors import WrongDeviceError
from attnc.backends.triton.launch import source_file
from attnc.backends.triton.targets import nearest_target

from .helpers import Case


def test_damaged_file_is_written_anew():
    path = source_file("kernel", b"x = 1\n")
    assert path.read_bytes() == b"x = 1\n"
    path.write_bytes(b"x = ")
    assert source_file("kernel", b"x = 1\n").read_bytes() == b"x = 1\n"


def test_folder_that_cannot_be_written(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(blocked))
    assert source_file("kernel", b"x = 2\n").read_bytes() == b"x = 2\n"


def test_wrong_device():
    engine = get_backend("triton")
    launch = engine.load(engine.compile(Case().kernel()))
    with pytest.raises(WrongDeviceError, match="not on meta"):
        launch([torch.empty(1, device="meta")], {})


def test_interpreter_bfloat16_rounds_as_torch_does():
    from attnc.backends.triton.interpreter import bfloat16_to_float32, float32_to_bfloat16

    values = torch.cat([torch.randn(1000), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3e38, 1e-40])])
    words = float32_to_bfloat16(values.numpy())
    exact = values.bfloat16()
    assert np.array_equal(bfloat16_to_float32(words), exact.float().numpy(), equal_nan=True)


def test_interpreting_leaves_triton_as_it_was():
    import triton.language as tl
    from triton import knobs

    engine = get_backend("triton")
    before = tl.sum, knobs.runtime.interpret
    case = Case(tiles="16x16")
    engine.load(engine.compile(case.kernel()))(
        [*case.inputs(n=3, m=3), torch.empty(1, 2, 3, 64), torch.empty(1, 2, 3)], {"B": 1, "H": 2, "N": 3, "M": 3}
    )
    assert (tl.sum, knobs.runtime.interpret) == before


def test_compiling_after_interpreting():
    """Triton leaves its language patched where a kernel calls a function of the library."""
    engine = get_backend("triton")
    case = Case(tiles="16x16")
    engine.load(engine.compile(case.kernel()))(
        [*case.inputs(n=3, m=3), torch.empty(1, 2, 3, 64), torch.empty(1, 2, 3)], {"B": 1, "H": 2, "N": 3, "M": 3}
    )
    assert engine.compile(case.kernel(), stages=("ttir",), target="sm_90").stages["ttir"]


def test_nearest_target():
    assert nearest_target("sm_90") == "sm_90"
    assert nearest_target("sm_103") == "sm_100"
    assert nearest_target("gfx940") == "gfx942"


def test_fingerprint_is_cheap():
    code = (
        "import sys; from attnc.backends import get_backend; print(get_backend('triton').fingerprint());"
        "assert 'triton' not in sys.modules and 'xdsl' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "printer" in done.stdout
