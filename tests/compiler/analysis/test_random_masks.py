"""Key ranges of random masks against the dense mask."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnc.ir.expr import all_of, any_of, op, parse
from tests.compiler.analysis.test_index_sets import analyse, check

positions = st.sampled_from(
    [
        "i",
        "j",
        "i - j",
        "j - i",
        "i + j",
        "i // 8",
        "j // 8",
        "i % 8",
        "j % 8",
        "abs(i - j)",
        "j + N - i",
        "(i + 3) // 5",
        "max(i, j)",
        "min(i, N_k - j)",
        "h * 4 + i",
        "where(h < 1, i, j)",
    ]
)
atoms = st.builds(
    lambda a, name, b, shift: op(name, parse(a), parse(b) + shift),
    positions,
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.one_of(positions, st.sampled_from(["0", "N // 2", "h * 3"])),
    st.integers(-20, 40),
)
masks = st.recursive(
    atoms,
    lambda m: st.one_of(
        st.lists(m, min_size=2, max_size=3).map(all_of),
        st.lists(m, min_size=2, max_size=3).map(any_of),
        m.map(lambda x: op("not", x)),
    ),
    max_leaves=4,
)


@given(mask=masks, rows=st.sampled_from([1, 8, 16]), n=st.integers(0, 40), n_k=st.integers(0, 40))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_masks(mask, rows, n, n_k):
    if str(mask) in ("True", "False"):
        return
    dims, source, ranges = analyse("h < 2, i < N", "j < N_k", str(mask), rows)
    check(ranges, dims, rows, source, {"N": n, "N_k": n_k}, source.mask)
    check(ranges, dims, rows, source, {"N": n, "N_k": n}, source.mask)
