"""Reading assembly: the instructions of a kernel, which kinds they are of, and the loops that they lie in.

A loop is what lies between its beginning and the last way back to it (:mod:`.flow`).  The ones that matter are the
innermost among those with products: a wait for a barrier is a loop as well, of two instructions.  Products are matrix
instructions; in kernels without any (float32 on NVIDIA, one query) many multiply-adds.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from .flow import Flow

MANY = 64  # multiply-adds of a loop: a tile's products, where exponentials and addresses have a few


@dataclass(frozen=True)
class Syntax:
    """How one assembly language is written: regular expressions, one for each kind of instruction.

    ``on_chip`` are accesses to shared (and tensor) memory, ``memory`` those to global memory, copies between the two
    included; ``special`` are exponentials, logarithms, reciprocals and roots.
    """

    label: str
    instruction: str  # its groups are the name and the operands
    jump: str  # found in name and operands; its group is the label
    final: str  # matches a line behind which the next one is not reached, unless something jumps there
    multiply: str  # a multiply-add of floating-point numbers, matched against the name
    kinds: dict[str, str]  # matched against the name


_SASS = Syntax(
    label=r"\.?(L_\w+):",
    instruction=r"/\*[0-9a-f]+\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][\w.]+)\s*(.*)",
    jump=r"^BRA\b.*\(\.?(L_\w+)\)",
    final=r"/\*[0-9a-f]+\*/\s+(BRA\s+`|EXIT|RET)",
    multiply=r"[DFH]FMA",
    kinds={
        "matrix": r"(H|I|D|Q|O|B)MMA|[A-Z]GMMA|UTC\w*MMA",
        "on_chip": r"U?LDS|U?STS|LDSM|STSM|LDTM|STTM|ATOMS",
        "memory": r"LDG|STG|LD\.|ST\.|RED|ATOM\b|ATOMG|UTMA|UBLK|UBLKCP",
        "special": r"MUFU",
        "spill": r"LDL|STL",
    },
)
_PTX = Syntax(
    label=r"(\$\w+):",
    instruction=r"(?:@!?%p\d+\s+)?([a-z][\w.:]+)\s*(.*);",
    jump=r"^bra[\w.]*\s+(\$\w+)",
    final=r"(bra|ret|exit)\b",
    multiply=r"fma\.",
    kinds={
        "matrix": r"mma\.sync|wgmma\.mma_async|tcgen05\.mma",
        "on_chip": r"(ld|st)\.shared|ldmatrix|stmatrix|tcgen05\.(ld|st)",
        "memory": r"(ld|st|red|atom)\.global|cp\.async\.(ca|cg|bulk)",
        "special": r"(ex2|lg2|rcp|rsqrt|sqrt|sin|cos|tanh)\.",
        "spill": r"(ld|st)\.local",
    },
)
_AMDGCN = Syntax(
    label=r"(\.?LBB\w+):",
    instruction=r"([vs]_\w+|ds_\w+|global_\w+|buffer_\w+|flat_\w+|scratch_\w+)\s*(.*)",
    jump=r"^s_c?branch\w*\s+(\.?LBB\w+)",
    final=r"s_(branch|endpgm|setpc)",
    multiply=r"v_(pk_)?(fma|mad|mac)",
    kinds={
        "matrix": r"v_s?mfma",
        "on_chip": r"ds_",
        "memory": r"global_|buffer_(load|store|atomic)|flat_",
        "special": r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_",
        "spill": r"scratch_",
    },
)
SYNTAX = {"sass": _SASS, "ptx": _PTX, "amdgcn": _AMDGCN}


@dataclass(frozen=True)
class Listing:
    """A kernel's instructions in order: name and operands; where labels stand, and what ends a way through it."""

    syntax: Syntax
    instructions: tuple[tuple[str, str], ...]
    labels: dict[str, int]
    final: frozenset[int]

    def count(self, first: int = 0, last: int | None = None) -> Counter[str]:
        """How many instructions of each kind lie in a range; ``all`` counts every one."""
        found: Counter[str] = Counter()
        for name, _ in self.instructions[first:last]:
            found["all"] += 1
            found.update(k for k, pattern in self.syntax.kinds.items() if re.match(pattern, name))
        return found

    def spilled(self) -> int:
        """Bytes a thread moves to and from its spilled registers, each instruction counted once."""
        return sum(_bytes(name) for name, _ in self.instructions if re.match(self.syntax.kinds["spill"], name))

    def main_loops(self) -> list[tuple[int, int]]:
        """First and last instruction of each innermost loop with products."""
        jumps: dict[int, int] = {}
        for n, (name, operands) in enumerate(self.instructions):
            jump = re.search(self.syntax.jump, f"{name} {operands}")
            if jump and jump[1] in self.labels:
                jumps[n] = self.labels[jump[1]]
        found = Flow(len(self.instructions), jumps, self.final).loops()
        loops = [x for x in found if self.count(x[0], x[1] + 1)["matrix"]]
        if not loops:
            loops = [x for x in found if self._multiplies(*x) >= MANY]
        return [x for x in loops if not any(x != y and x[0] <= y[0] and y[1] <= x[1] for y in loops)]

    def _multiplies(self, first: int, last: int) -> int:
        names = (name for name, _ in self.instructions[first : last + 1])
        return sum(re.match(self.syntax.multiply, name) is not None for name in names)


def read(text: str, language: str) -> Listing:
    """The listing of a text in ``language``, a key of :data:`SYNTAX`."""
    syntax = SYNTAX[language]
    label, instruction = re.compile(r"\s*" + syntax.label), re.compile(r"\s*" + syntax.instruction)
    instructions: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    final: set[int] = set()
    for line in text.splitlines():
        if found := label.match(line):
            labels[found[1]] = len(instructions)
        elif found := instruction.match(line):
            if re.match(r"\s*" + syntax.final, line):
                final.add(len(instructions))
            instructions.append((found[1], found[2]))
    return Listing(syntax, tuple(instructions), labels, frozenset(final))


def _bytes(name: str) -> int:
    """Of an access to local memory, by the width in its name."""
    if wide := re.search(r"\.(\d+)\b|dwordx(\d)", name):
        return int(wide[1]) // 8 if wide[1] else 4 * int(wide[2])
    return 1 if re.search(r"\.[US]8|byte", name) else 2 if re.search(r"\.[US]16|short", name) else 4
