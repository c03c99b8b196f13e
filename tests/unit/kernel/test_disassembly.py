# SPDX-License-Identifier: GPL-2.0-or-later
"""objdump's listing is read as instructions with their operands, their extents and the lines they come from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.disassembly import Memory, memory_of, read_listing, whole_register

LISTING = """
diff.o:     file format elf64-x86-64

Disassembly of section .text.show:

0000000000000000 <show>:
show():
/src/fs/proc/version.c:12 (discriminator 3)
   0:\tendbr64
   4:\tcall   9 <show+0x9>
utsname():
/src/./include/linux/utsname.h:82
   9:\tmov    %gs:0x0(%rip),%rax        # 11 <show+0x11>
  11:\tlock cmpxchg %ecx,0x8(%rax,%rdx,4)
/src/fs/proc/version.c:14
  16:\tjmp    4 <show+0x4>

Disassembly of section .text.unlikely.show:

0000000000000000 <show.cold>:
   0:\tmov    $0x0,%rdi
   7:\trep stos %rax,%es:(%rdi)
"""


def test_instructions_have_section_extent_name_operands_and_the_last_line_of_a_c_file() -> None:
    found = list(read_listing(LISTING))
    assert [(one.address, one.end, one.name, one.operands) for one in found[:5]] == [
        (0, 4, "endbr64", ()),
        (4, 9, "call", ("9 <show+0x9>",)),
        (9, 17, "mov", ("%gs:0x0(%rip)", "%rax")),
        (17, 22, "cmpxchg", ("%ecx", "0x8(%rax,%rdx,4)")),
        (22, 38, "jmp", ("4 <show+0x4>",)),
    ]
    assert [one.line for one in found[:5]] == ["fs/proc/version.c:12"] * 4 + ["fs/proc/version.c:14"]
    assert [(one.section, one.line) for one in found[5:]] == [(".text.unlikely.show", "")] * 2
    assert (found[6].name, found[6].operands) == ("stos", ("%rax", "%es:(%rdi)"))
    assert [found[1].target, found[4].target, found[2].target] == [9, 4, None]


def test_memory_operands_are_taken_apart() -> None:
    assert memory_of("0x8(%rax,%rdx,4)") == Memory(segment="", offset=8, base="rax", scaled="rdx")
    assert memory_of("-0x10(%rbp)") == Memory(segment="", offset=-16, base="rbp", scaled="")
    assert memory_of("0x0(,%rdi,8)") == Memory(segment="", offset=0, base="", scaled="rdi")
    assert memory_of("%gs:0x28") == Memory(segment="gs", offset=40, base="", scaled="")
    assert memory_of("*0x0(%rip)") == Memory(segment="", offset=0, base="", scaled="")
    assert [memory_of(other) for other in ("%rax", "$0x0", "*%rax", "9 <show+0x9>")] == [None] * 4


def test_parts_of_registers_count_as_the_whole() -> None:
    names = ("al", "ah", "ecx", "sil", "r8d", "r15b", "rdi", "bp")
    assert [whole_register(name) for name in names] == ["rax", "rax", "rcx", "rsi", "r8", "r15", "rdi", "rbp"]


@given(st.text(alphabet="0123456789abcdef:\t\n ,()%$*#<>+-.xDisassemblyofsection/src", max_size=300))
def test_any_listing_is_read(text: str) -> None:
    for one in read_listing(text):
        assert one.end > one.address or one.end >= 0
        for operand in one.operands:
            memory_of(operand)
