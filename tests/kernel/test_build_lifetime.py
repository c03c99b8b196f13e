# SPDX-License-Identifier: GPL-2.0-or-later
"""New code that refers to what will not be there when it runs is refused by the check already, on real kernels."""

from __future__ import annotations

from typing import Any

import pytest
from edits import Edit, before, patch_of

from elivepatch.build.base.store import Base

pytestmark = pytest.mark.kernel

VERSION, SHOW, END = "fs/proc/version.c", "static int version_proc_show", "	return 0;\n}\n\nstatic int __init"
VLAN, VLAN_TOP = "net/8021q/vlanproc.c", "static const char *const vlan_name_type_str"
VLAN_HEAD = '		seq_puts(seq, "VLAN Dev name'


def in_version(declared: str, used: str) -> list[Edit]:
    """Use something that is declared in the function that shows the kernel's version."""
    return [before(VERSION, SHOW, declared), before(VERSION, END, f"	{used}\n")]


def in_vlan(declared: str, used: str) -> list[Edit]:
    """Use something that is declared in a function of the module 8021q."""
    return [before(VLAN, VLAN_TOP, declared), before(VLAN, VLAN_HEAD, f"		if (!jiffies)\n			{used}\n")]


REFUSED: dict[str, tuple[list[Edit], str, str]] = {
    "start-up data of the kernel": (
        in_version("extern char boot_command_line[];\n", "seq_puts(m, boot_command_line);"),
        "freed-memory", "version_proc_show uses boot_command_line of .init.data",
    ),
    "start-up code of the kernel": (
        in_version("static int proc_version_init(void);\n", "if (!jiffies)\n		proc_version_init();"),
        "freed-memory", "version_proc_show uses proc_version_init of .init.text",
    ),
    "new start-up code": (
        in_version("static noinline int __init once(struct seq_file *m)\n{\n	return seq_has_overflowed(m);\n}\n\n",
                   "once(m);"),
        "freed-memory", "version_proc_show uses once of .init.text, which is freed after the livepatch is loaded",
    ),
    "new start-up data": (
        in_version('static const char words[] __initconst = "hello";\n\n', "seq_puts(m, words);"),
        "freed-memory", "version_proc_show uses words of .init.rodata",
    ),
    "start-up code of a module": (
        in_vlan("extern int vlan_proc_init(struct net *net);\nextern int vlan_gvrp_init(void);\n", "init_module();"),
        "freed-memory", "vlan_seq_show uses init_module of .init.text",
    ),
    "a module's symbol in the kernel's own code": (
        in_version("extern int garp_request_join(void *a, void *b, const void *c, u8 d, u8 e);\n",
                   "if (!jiffies)\n		garp_request_join(NULL, NULL, NULL, 0, 0);"),
        "module-symbol", "version_proc_show is the kernel's own code and uses garp_request_join of the module garp",
    ),
    "a symbol of a module that this module does not need": (
        in_vlan("extern void nf_ct_delete(void *ct);\n", "nf_ct_delete(NULL);"),
        "module-symbol", "nf_ct_delete of the module nf_conntrack, which 8021q does not depend on",
    ),
}  # fmt: skip
IN_SHORT = ("start-up data of the kernel", "new start-up code", "a module's symbol in the kernel's own code")


@pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=() if name in IN_SHORT else pytest.mark.extended) for name in REFUSED]
)
def test_a_reference_to_what_is_freed_or_may_be_absent_is_refused_by_the_check(
    base: Base, build: Any, kind: str
) -> None:
    edits, code, message = REFUSED[kind]
    found = build(base, patch_of(base.tree, *edits), check_only=True)
    assert found.problem is not None
    assert (found.problem.code, message in found.problem.message) == (code, True), found.problem.message
    assert "Lines concerned:" in found.problem.excerpt


@pytest.mark.extended
def test_a_module_may_use_a_module_that_it_depends_on(base: Base, build: Any) -> None:
    edits = in_vlan("extern int garp_request_join(void *a, void *b, const void *c, u8 d, u8 e);\n",
                    "garp_request_join(NULL, NULL, NULL, 0, 0);")  # fmt: skip
    assert build(base, patch_of(base.tree, *edits)).problem is None


@pytest.mark.extended
def test_the_kernel_may_look_a_modules_symbol_up_while_it_runs(base: Base, build: Any) -> None:
    declared = "#include <linux/module.h>\nextern int garp_init_applicant(void *dev, void *app);\n\n"
    used = "if (symbol_get(garp_init_applicant))\n		symbol_put(garp_init_applicant);"
    assert build(base, patch_of(base.tree, *in_version(declared, used))).problem is None
