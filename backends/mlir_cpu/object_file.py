"""A loader of x86-64 and AArch64 relocatable ELF objects: map, relocate, make executable.

LLVM's just-in-time compiler emits the large code model, in which every reference to a symbol is a full
64-bit address, so no linker, no jump tables and no distance limits are involved.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable

from .errors import ObjectFileError

_ROW = struct.Struct("<IIQQQQIIQQ").unpack_from
SHT_SYMTAB, SHT_RELA, SHT_NOBITS = 2, 4, 8
SHF_ALLOC = 2
EM_X86_64, EM_AARCH64 = 62, 183
STB_GLOBAL = 1
PROT_READ_EXEC = mmap.PROT_READ | mmap.PROT_EXEC

# (machine, relocation type) -> (size in bytes, relative to the place); values from the two ELF ABIs
RELOCATIONS = {
    (EM_X86_64, 1): (8, False),  # R_X86_64_64
    (EM_X86_64, 2): (4, True),  # R_X86_64_PC32
    (EM_X86_64, 4): (4, True),  # R_X86_64_PLT32
    (EM_X86_64, 24): (8, True),  # R_X86_64_PC64
    (EM_AARCH64, 257): (8, False),  # R_AARCH64_ABS64
    (EM_AARCH64, 260): (8, True),  # R_AARCH64_PREL64
    (EM_AARCH64, 261): (4, True),  # R_AARCH64_PREL32
}
# AArch64 movz/movk sequences: 16 bits of an address in an instruction
AARCH64_MOVW = {263: 0, 264: 0, 265: 16, 266: 16, 267: 32, 268: 32, 269: 48}


class _Section:
    """A row of the section table; plain, for a data class would take as long to define as an object to load."""

    def __init__(self, data: bytes, at: int):
        _, self.type, self.flags, _, self.offset, self.size, self.link, self.info, self.align, _ = _ROW(data, at)


class LoadedObject:
    """Code in memory: addresses of its global symbols, valid as long as this object lives."""

    def __init__(self, symbols: dict[str, int], memory: mmap.mmap):
        self.symbols, self.memory = symbols, memory


def load_object(data: bytes, resolve: Callable[[str], int]) -> LoadedObject:
    """Place an object in memory; ``resolve`` gives addresses of undefined symbols."""
    try:
        return _load(data, resolve)
    except (struct.error, IndexError, StopIteration, UnicodeDecodeError, ValueError) as error:
        raise ObjectFileError(f"damaged object file: {error}") from None


def _load(data: bytes, resolve: Callable[[str], int]) -> LoadedObject:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ObjectFileError("not a little-endian 64-bit ELF object")
    machine = struct.unpack_from("<H", data, 18)[0]
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, _ = struct.unpack_from("<HHH", data, 58)
    sections = [_Section(data, table + n * size) for n in range(count)]

    place: dict[int, int] = {}
    total = 0
    for n, s in enumerate(sections):
        if s.flags & SHF_ALLOC and s.size:
            total = -(-total // max(s.align, 1)) * max(s.align, 1)
            place[n] = total
            total += s.size
    memory = mmap.mmap(-1, max(total, 1), prot=mmap.PROT_READ | mmap.PROT_WRITE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for n, position in place.items():
        s = sections[n]
        if s.type != SHT_NOBITS:
            if s.offset + s.size > len(data):
                raise ObjectFileError("truncated object file")
            memory[position : position + s.size] = data[s.offset : s.offset + s.size]

    addresses, exported = _symbols(data, sections, place, base, resolve)
    for s in sections:
        if s.type == SHT_RELA and s.info in place:
            for n in range(s.size // 24):
                offset, info, addend = struct.unpack_from("<QQq", data, s.offset + 24 * n)
                address = addresses[info >> 32]
                _relocate(memory, base, place[s.info] + offset, machine, info & 0xFFFFFFFF, address, addend)
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    if mprotect(ctypes.c_void_p(base), ctypes.c_size_t(len(memory)), PROT_READ_EXEC):
        raise ObjectFileError(f"the system forbids executable memory (errno {ctypes.get_errno()})")
    return LoadedObject(exported, memory)


def _symbols(
    data: bytes, sections: list[_Section], place: dict[int, int], base: int, resolve: Callable[[str], int]
) -> tuple[list[int], dict[str, int]]:
    """The address of every symbol, and the global ones by name."""
    table = next(s for s in sections if s.type == SHT_SYMTAB)
    names = sections[table.link].offset
    addresses: list[int] = []
    exported: dict[str, int] = {}
    for n in range(table.size // 24):
        name_at, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, table.offset + 24 * n)
        name = data[names + name_at : data.index(b"\0", names + name_at)].decode()
        if section == 0:
            address = resolve(name) if name else 0
        elif section in place:
            address = base + place[section] + value
            if info >> 4 == STB_GLOBAL:
                exported[name] = address
        else:
            address = value
        addresses.append(address)
    return addresses, exported


def _relocate(memory: mmap.mmap, base: int, at: int, machine: int, kind: int, address: int, addend: int) -> None:
    value = address + addend
    if machine == EM_AARCH64 and kind in AARCH64_MOVW:
        (word,) = struct.unpack_from("<I", memory, at)
        struct.pack_into("<I", memory, at, word | (value >> AARCH64_MOVW[kind] & 0xFFFF) << 5)
        return
    if (machine, kind) not in RELOCATIONS:
        raise ObjectFileError(f"relocation type {kind} of ELF machine {machine} is not supported")
    size, relative = RELOCATIONS[machine, kind]
    if relative:
        value -= base + at
        if not -(1 << 8 * size - 1) <= value < 1 << 8 * size - 1:
            raise ObjectFileError(f"relocation type {kind} is out of reach")
    struct.pack_into("<Q" if size == 8 else "<I", memory, at, value & ((1 << 8 * size) - 1))
