# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions of a rebuilt object that the shipped kernel does not have, each with the rule that explains it.

The rules come from a comparison of all objects of Debian's 6.1 and 6.12 (`make every-object`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from elivepatch.build.checks.fidelity import Match
from elivepatch.model.kernel import VMLINUX

Row = Mapping[str, Any]

_DISCARDED = (".exit.text", ".discard", ".init.discard", ".meminit.text", ".cpuinit.text")
NOT_SHIPPED = {
    "weak": "The function is weak, and the kernel has the function of another object in its place.",
    "weak-both": "The function is weak in two objects, and the kernel has the other, which has another size.",
    "discarded": "The linker leaves out the section of the function, which nothing in vmlinux calls.",
}
"""Rules for functions that the object has and the shipped kernel does not have: there is nothing to compare."""

UNEXPLAINED = "unexplained"


def rule_of_function(seen: Row, *, in_vmlinux: bool) -> str:
    """Return the rule that explains why a function is not the shipped one, `unexplained` if none does."""
    if seen["match"] == Match.WEAK:
        return "weak"
    if seen["match"] == Match.DIFFERS and seen.get("weak") and seen["sizes"][0] != seen["sizes"][1]:
        return "weak-both"
    if seen["match"] == Match.ABSENT and in_vmlinux and seen["section"].startswith(_DISCARDED):
        return "discarded"
    return UNEXPLAINED


def ruled_exceptions(row: Row) -> Iterator[tuple[str, str, Row]]:
    """Yield rule, name and what was seen of each function of a compared object that is not the shipped one."""
    for name, seen in row.get("exceptions", {}).items():
        yield rule_of_function(seen, in_vmlinux=row["parent"] == VMLINUX), name, seen
