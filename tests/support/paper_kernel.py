# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel on paper: a vmlinux and the RAM of a guest that runs it, with one livepatch, written byte by byte.

It has what a look from outside reads and nothing else: code with ftrace's entry, the lists of modules, livepatches and
operations, and their types as BTF. Each test changes a few bytes of the RAM.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from elf_maker import Made

PAGE = 4096
PRESENT, LARGE = 1, 1 << 7
BUILD_ID = "5a" * 20
NOP5 = bytes.fromhex("0f1f440000")

TEXT = 0xFFFFFFFF81000000
RODATA, DATA = TEXT + 0x200000, TEXT + 0x400000
SLIDE = 0x2000000
AREA = 0xFFFFFFFFC0000000  # of modules and trampolines
MODULE, STRUCTURES, TRAMPOLINE = AREA, AREA + PAGE, AREA + 2 * PAGE
RAM_BYTES = 1 << 20
CALLER, REGS, STUB, LIST, HANDLER, ASSISTANT = (TEXT + at for at in (0x100, 0x200, 0x300, 0x310, 0x320, 0x330))
VICTIM, OTHER = TEXT + 0x400, TEXT + 0x480
LOAD, CALL, END = 0x10, 0x20, 0x40  # in ftrace's entry code
NEW = MODULE + 0x80
OPS_LIST, LIST_END, OPS, PATCHES, MODULES = (DATA + at for at in (0, 0x40, 0x100, 0x120, 0x140))
KLP_OPS, FOPS, FUNC, PATCH, OBJECT, STRUCT_MODULE, NAME = (
    STRUCTURES + at for at in (0x100, 0x120, 0x200, 0x300, 0x400, 0x500, 0x600)
)
TYPES: Mapping[str, Mapping[str, int]] = {
    "klp_ops": {"node": 0, "func_stack": 16, "fops": 32},
    "ftrace_ops": {"func": 0, "next": 8},
    "klp_func": {
        "old_name": 0, "new_func": 8, "old_sympos": 16, "old_func": 24, "node": 32, "stack_node": 48, "nop": 64,
    },
    "klp_patch": {"mod": 0, "list": 8, "obj_list": 24},
    "klp_object": {"name": 0, "func_list": 8, "node": 24},
    "module": {"list": 0, "name": 16, "core_layout": 80},
    "module_layout": {"base": 0, "text_size": 8, "ro_size": 12},
}  # fmt: skip


def call(address: int, target: int) -> bytes:
    """Return the bytes of a call at `address`."""
    return b"\xe8" + ((target - address - 5) & 0xFFFFFFFF).to_bytes(4, "little")


def btf(types: Mapping[str, Mapping[str, int]]) -> bytes:
    """Return structures as BTF; each member is of one type."""
    names, body = bytearray(b"\0int\0"), struct.pack("<IIII", 1, 1 << 24, 4, 32)

    def name(text: str) -> int:
        names.extend(text.encode() + b"\0")
        return len(names) - len(text) - 1

    for tag, members in types.items():
        body += struct.pack("<III", name(tag), 4 << 24 | len(members), 128)
        body += b"".join(struct.pack("<III", name(one), 1, 8 * at) for one, at in members.items())
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(names)) + body + bytes(names)


def entry_code(address: int, target: int, behind: int) -> bytes:
    """Return ftrace's entry code at `address`; it loads the word at `behind` and calls `target`."""
    code = bytearray(b"\x90" * END)
    code[LOAD : LOAD + 7] = b"\x48\x8b\x15" + ((behind - address - LOAD - 7) & 0xFFFFFFFF).to_bytes(4, "little")
    code[CALL : CALL + 5] = call(address + CALL, target)
    return bytes(code)


def code() -> bytes:
    """Return the kernel's code as it is before the load."""
    found = bytearray(b"\x55" * PAGE)
    for address, content in (
        (CALLER, entry_code(CALLER, STUB, DATA + 0x80)), (REGS, entry_code(REGS, STUB, DATA + 0x80)),
        (VICTIM, NOP5), (OTHER, NOP5),
    ):  # fmt: skip
        found[address - TEXT : address - TEXT + len(content)] = content
    return bytes(found)


def vmlinux(place: Path, *, types: bool = True) -> Path:
    """Write the kernel's file."""
    note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes.fromhex(BUILD_ID)
    made = Made()
    made.section(".text", code(), code=True, address=TEXT)
    made.section(".rodata", b"\x77" * PAGE, address=RODATA)
    made.section(".notes", note, kind="NOTE", address=RODATA)
    made.section(".init.data", struct.pack("<QQ", VICTIM, OTHER), address=TEXT + 0x600000)
    made.section(".data", bytes(PAGE), address=DATA)
    if types:
        made.section(".BTF", btf(TYPES))
    for name, address in {
        "_text": TEXT, "_stext": TEXT, "_etext": TEXT + PAGE, "ftrace_caller": CALLER, "ftrace_call": CALLER + CALL,
        "ftrace_caller_op_ptr": CALLER + LOAD, "ftrace_caller_end": CALLER + END, "ftrace_regs_caller": REGS,
        "ftrace_regs_call": REGS + CALL, "ftrace_regs_caller_op_ptr": REGS + LOAD, "ftrace_regs_caller_end": REGS + END,
        "ftrace_stub": STUB, "arch_ftrace_ops_list_func": LIST, "klp_ftrace_handler": HANDLER,
        "ftrace_ops_assist_func": ASSISTANT,
        "victim": VICTIM, "other": OTHER,
    }.items():  # fmt: skip
        made.symbol(name, ".text", value=address)
    for name, address in {"__start_rodata": RODATA, "__end_rodata": RODATA + PAGE}.items():
        made.symbol(name, ".rodata", value=address)
    for name, address in {"__start_notes": RODATA, "__stop_notes": RODATA + len(note)}.items():
        made.symbol(name, ".notes", value=address)
    for name, at in {"__start_mcount_loc": 0, "__stop_mcount_loc": 16}.items():
        made.symbol(name, ".init.data", value=TEXT + 0x600000 + at)
    for name, address in {"ftrace_ops_list": OPS_LIST, "ftrace_list_end": LIST_END, "klp_ops": OPS,
                          "klp_patches": PATCHES, "modules": MODULES}.items():  # fmt: skip
        made.symbol(name, ".data", value=address)
    place.write_bytes(made.data())
    return place


@dataclass
class PaperGuest:
    """The RAM of a guest that runs the kernel; addresses are virtual, those of the kernel without the slide."""

    descriptor: int
    root: int = 0x80000
    _next: int = 0x80000
    _pages: dict[int, int] = field(default_factory=dict)

    def map(self, address: int, physical: int) -> None:
        """Map one page."""
        table = self.root
        for level in range(4, 1, -1):
            place = table + 8 * (address >> (12 + 9 * (level - 1)) & 0x1FF)
            (entry,) = struct.unpack("<Q", os.pread(self.descriptor, 8, place))
            if not entry & PRESENT:
                self._next += PAGE
                entry = self._next | PRESENT
                os.pwrite(self.descriptor, struct.pack("<Q", entry), place)
            table = entry & ~0xFFF
        os.pwrite(self.descriptor, struct.pack("<Q", physical | PRESENT), table + 8 * (address >> 12 & 0x1FF))

    def put(self, address: int, content: bytes) -> None:
        """Write to a virtual address, of a page that is mapped when it is first written to."""
        moved = address + SLIDE if address < AREA else address
        page = moved & ~0xFFF
        if page not in self._pages:
            self._pages[page] = 0x10000 + PAGE * len(self._pages)
            self.map(page, self._pages[page])
        os.pwrite(self.descriptor, content, self._pages[page] + (moved & 0xFFF))

    def words(self, address: int, *words: int) -> None:
        """Write 8-byte numbers; those that are addresses of the kernel get the slide."""
        moved = (one + SLIDE if TEXT <= one < AREA else one for one in words)
        self.put(address, struct.pack(f"<{len(words)}Q", *moved))

    def ring(self, head: int, *nodes: int) -> None:
        """Link a list of the kernel."""
        places = [head, *nodes]
        for number, place in enumerate(places):
            self.words(place, places[(number + 1) % len(places)], places[number - 1])

    def boot(self) -> None:
        """Write the kernel before the load."""
        self.put(TEXT, code())
        self.put(RODATA, b"\x77" * PAGE)
        self.put(RODATA, struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes.fromhex(BUILD_ID))
        for head in (OPS, PATCHES, MODULES):
            self.ring(head)
        self.words(OPS_LIST, LIST_END)

    def load(self) -> None:
        """Write what a live livepatch `fix` changes, which replaces `victim` through a trampoline."""
        self.put(MODULE, b"\x66" * PAGE)
        self.put(STRUCT_MODULE + 16, b"fix\0")
        self.words(STRUCT_MODULE + 80, MODULE)
        self.put(STRUCT_MODULE + 88, struct.pack("<II", PAGE, PAGE))
        self.ring(MODULES, STRUCT_MODULE)
        self.put(NAME, b"victim\0")
        self.words(PATCH, STRUCT_MODULE)
        self.ring(PATCHES, PATCH + 8)
        self.ring(PATCH + 24, OBJECT + 24)
        self.words(OBJECT, 0)
        self.ring(OBJECT + 8, FUNC + 32)
        self.words(FUNC, NAME, NEW, 0, VICTIM)
        self.ring(OPS, KLP_OPS)
        self.ring(KLP_OPS + 16, FUNC + 48)
        self.words(FOPS, HANDLER, LIST_END)
        self.words(OPS_LIST, FOPS)
        self.trampoline(FOPS, HANDLER)
        self.hook(TRAMPOLINE)

    def trampoline(self, operation: int, target: int) -> None:
        """Write the trampoline of an operation."""
        self.put(TRAMPOLINE, entry_code(TRAMPOLINE, target + SLIDE, TRAMPOLINE + END + 5) + b"\xc3\xcc\xcc\xcc\xcc")
        self.words(TRAMPOLINE + END + 5, operation)

    def hook(self, target: int) -> None:
        """Have the entry of `victim` call `target`."""
        self.put(VICTIM, call(VICTIM + SLIDE, target + SLIDE if target < AREA else target))

    def share(self, target: int) -> None:
        """Have the entry of `victim` call the entry code that all operations share, and that code call `target`."""
        self.hook(CALLER)
        self.put(CALLER + CALL, call(CALLER + CALL, target))

    def revert(self) -> None:
        """Take the livepatch away; its module stays."""
        self.put(VICTIM, NOP5)
        self.ring(PATCHES)
        self.ring(OPS)
        self.words(OPS_LIST, LIST_END)


@contextmanager
def paper_guest() -> Iterator[PaperGuest]:
    """Yield a guest before the load."""
    descriptor = os.memfd_create("ram")
    try:
        os.ftruncate(descriptor, RAM_BYTES)
        made = PaperGuest(descriptor)
        made.boot()
        yield made
    finally:
        os.close(descriptor)
