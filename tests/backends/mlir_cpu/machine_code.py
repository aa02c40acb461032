"""Instructions of compiled kernels: of objects by objdump, of other architectures by the LLVM inside llvmlite."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

PRODUCT = re.compile(r"\b(vfn?m(add|sub)\w+[ps][sd]\b.*[xyz]mm|vdpbf16ps\b|fmla\s+v)")
STACK = re.compile(r"\(%r[sb]p\)|\[sp\b|\[x29\b")


def disassembly(payload: bytes, folder: Path) -> str:
    """Instructions of an object of this architecture, one a line: address, colon, text."""
    program = shutil.which("objdump")
    if program is None:
        pytest.skip("needs objdump")
    (folder / "kernel.o").write_bytes(payload)
    command = [program, "--disassemble", "--no-show-raw-insn", str(folder / "kernel.o")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def undefined_symbols(payload: bytes) -> set[str]:
    """What an ELF object expects others to define: library functions."""
    (table,) = struct.unpack_from("<Q", payload, 40)
    size, count, _ = struct.unpack_from("<HHH", payload, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", payload, table + n * size) for n in range(count)]
    symbols = next(s for s in sections if s[1] == 2)
    names, found = sections[symbols[6]][4], set()
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, section = struct.unpack_from("<I2xH", payload, at)
        if section == 0 and name:
            found.add(payload[names + name : payload.index(b"\0", names + name)].decode())
    return found


def assembly(llvm: str, triple: str) -> str:
    """LLVM IR compiled for another architecture, as assembly text."""
    binding = pytest.importorskip("llvmlite.binding")
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = binding.parse_assembly(_older_literals(llvm))
    machine = binding.Target.from_triple(triple).create_target_machine(opt=3)
    module.data_layout = str(machine.target_data)
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(module, passes)
    return machine.emit_assembly(module)


def _older_literals(llvm: str) -> str:
    """Floats as every LLVM reads them: the bits of a double."""

    def bits(match: re.Match[str]) -> str:
        type, text = match.groups()
        if text.startswith("f0x"):
            (value,) = struct.unpack(">f" if type == "float" else ">d", bytes.fromhex(text[3:]))
        else:
            value = float(text.replace("qnan", "nan"))
            if type == "float":
                (value,) = struct.unpack("f", struct.pack("f", value))
        return f"{type} 0x{struct.pack('>d', value).hex().upper()}"

    return re.sub(r"\b(float|double) (f0x[0-9A-F]+|[+-]?inf|[+-]?q?nan|-?\d+\.\d*(?:e[+-]?\d+)?)", bits, llvm)


def product_loops(text: str) -> list[list[str]]:
    """The bodies of innermost loops of which products are at least half, from objdump's text or from assembly."""
    lines, places = text.splitlines(), {}
    for n, line in enumerate(lines):
        if match := re.match(r"\s*([.\w]+):", line):
            places[match[1]] = n
    loops: list[tuple[int, int]] = []
    for n, line in enumerate(lines):
        match = re.search(r"\s(?:j[a-z]+|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.?\w+)", line)
        if match and places.get(match[1], n) < n:
            loops.append((places[match[1]], n))
    inner = [(a, z) for a, z in loops if not any((a, z) != (c, y) and a <= c and y <= z for c, y in loops)]
    bodies = [lines[a : z + 1] for a, z in inner]
    return [body for body in bodies if 2 * products(body) >= len(body)]


def products(lines: list[str]) -> int:
    """How many vector multiply-adds."""
    return sum(bool(PRODUCT.search(line)) for line in lines)
