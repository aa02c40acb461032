"""Reading assembly: loops, kinds, spills; and how many tasks fit on a multiprocessor."""

import pytest

from attnc.backends.triton.assembly import read
from attnc.backends.triton.targets import resident, target_named

SASS = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   STL.128 [R1], R4 ;
.L_x_1:
        /*0020*/                   LDGSTS.E.BYPASS.LTC128B.128 [R5], desc[UR4][R2.64] ;
.L_x_2:
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R3], R6 ;
        /*0040*/              @!P1 BRA `(.L_x_2) ;
        /*0050*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
        /*0060*/                   MUFU.EX2 R7, R8 ;
        /*0070*/                   LDL R9, [R1+0x10] ;
        /*0080*/               @P0 BRA `(.L_x_1) ;
        /*0090*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
.L_x_3:
        /*00a0*/                   BRA `(.L_x_3);
"""
PTX = """
$L__BB0_1:
\tcp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;
\twgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%f1}, %rd2, %rd3, 1, 1, 1, 0, 0;
\tex2.approx.ftz.f32 %f2, %f3;
\t@%p1 bra $L__BB0_1;
\tret;
"""
AMDGCN = """
.LBB0_1:                                ; =>This Loop Header: Depth=1
\ts_mov_b32 s0, 0
.LBB0_2:                                ;   Parent Loop BB0_1 Depth=1
\tds_read_b128 v[0:3], v4
\tv_mfma_f32_32x32x8_bf16 v[16:31], v[54:55], v[130:131], 0
\tscratch_load_dwordx2 v[0:1], off, off offset:4
\ts_cbranch_scc1 .LBB0_2
\ts_cbranch_vccnz .LBB0_1
\ts_branch .LBB0_3
.LBB0_3:
\ts_endpgm
"""


# a wait for a copy that is late stands behind the end of the kernel, and jumps back into the loop
LATE = """
.L_x_1:
        /*0000*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R3], R6 ;
        /*0010*/              @!P1 BRA `(.L_x_4) ;
.L_x_2:
        /*0020*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
        /*0050*/                   EXIT ;
.L_x_4:
        /*0060*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R3], R6 ;
        /*0070*/              @!P1 BRA `(.L_x_4) ;
        /*0080*/                   BRA `(.L_x_2) ;
"""


# the end of a loop stands before its beginning, and goes on there without a jump
TURNED = """
\ts_cbranch_scc1 .LBB0_23
\ts_branch .LBB0_15
.LBB0_14:                               ;   in Loop: Header=BB0_15 Depth=1
\tv_mfma_f32_32x32x8_bf16 v[16:31], v[54:55], v[130:131], 0
\ts_cbranch_scc0 .LBB0_24
.LBB0_15:                               ; =>This Inner Loop Header: Depth=1
\tds_read_b128 v[0:3], v4
\ts_cbranch_execz .LBB0_14
\tv_exp_f32_e32 v1, v1
\ts_branch .LBB0_14
.LBB0_23:
\tv_mfma_f32_32x32x8_bf16 v[16:31], v[54:55], v[130:131], 0
.LBB0_24:
\ts_endpgm
"""


def only_loop(text: str, language: str) -> dict[str, int]:
    listing = read(text, language)
    ((first, last),) = listing.main_loops()
    return dict(listing.count(first, last + 1))


def test_a_wait_is_no_main_loop_and_what_is_outside_does_not_count() -> None:
    assert only_loop(SASS, "sass") == {"all": 7, "memory": 1, "matrix": 1, "special": 1, "spill": 1}
    assert read(SASS, "sass").count()["matrix"] == 2
    assert read(SASS, "sass").spilled() == 16 + 4


def test_a_wait_behind_the_kernel_makes_no_loop() -> None:
    assert only_loop(LATE, "sass") == {"all": 4, "matrix": 1}


def test_ptx() -> None:
    assert only_loop(PTX, "ptx") == {"all": 4, "memory": 1, "matrix": 1, "special": 1}


def test_the_innermost_loop_with_a_product_counts() -> None:
    assert only_loop(AMDGCN, "amdgcn") == {"all": 4, "on_chip": 1, "matrix": 1, "spill": 1}
    assert read(AMDGCN, "amdgcn").spilled() == 8


def test_a_loop_may_end_where_it_begins_without_a_jump() -> None:
    assert only_loop(TURNED, "amdgcn") == {"all": 6, "on_chip": 1, "matrix": 1, "special": 1}


def test_without_matrix_instructions_a_loop_of_multiply_adds_counts() -> None:
    products = "        /*0010*/                   FFMA R1, R2, R3, R1 ;\n" * 64
    spill = "        /*0020*/                   LDL R9, [R1+0x10] ;\n"
    end = "        /*0030*/               @P0 BRA `(.L_x_1) ;\n"
    assert only_loop(".L_x_1:\n" + products + spill + end, "sass") == {"all": 66, "spill": 1}
    exponentials = products.splitlines(keepends=True)[:4]
    assert read(".L_x_1:\n" + "".join(exponentials) + end, "sass").main_loops() == []


def test_a_kernel_without_loops() -> None:
    assert read("        /*0000*/                   EXIT ;\n", "sass").main_loops() == []


@pytest.mark.parametrize(
    "target, registers, warps, shared, tasks",
    [
        ("sm_90", 255, 8, 0, 1),  # 65536 registers, 256 threads with 256 each
        ("sm_90", 128, 8, 0, 2),
        ("sm_90", 32, 4, 0, 16),  # 2048 threads
        ("sm_90", 64, 4, 112 << 10, 2),  # 228 KiB, one of them for the system in each task
        ("sm_90", 64, 4, 114 << 10, 1),
        ("sm_89", 32, 8, 0, 6),  # 1536 threads
        ("gfx942", 256, 4, 32 << 10, 2),  # 64 KiB
        ("gfx942", 256, 8, 1 << 10, 1),  # two waves on each of four units
        ("gfx942", 512, 4, 1 << 10, 1),
    ],
)
def test_tasks_that_fit(target: str, registers: int, warps: int, shared: int, tasks: int) -> None:
    assert resident(target_named(target), registers, warps, shared) == tasks
