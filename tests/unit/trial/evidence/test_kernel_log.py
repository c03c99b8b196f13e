# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of a kernel's log that fail a trial, and lines that do not.

The snippets have the shape of 6.1 to 7.2 kernels' messages; functions and addresses are made up.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.trial.evidence.kernel_log import headline, tail, trouble

ORDINARY = """\
<12>[    2.496741] elivepatch: case 000000 load.1
<4>[    2.515138] livepatch_x: loading out-of-tree module taints kernel.
<5>[    2.515321] livepatch_x: tainting kernel with TAINT_LIVEPATCH
<5>[    2.515402] livepatch_x: module verification failed: signature and/or required key missing - tainting kernel
<5>[    2.551123] livepatch: enabling patch 'livepatch_x'
<5>[    2.560232] livepatch: 'livepatch_x': starting patching transition
<5>[   17.560232] livepatch: signaling remaining tasks
<5>[   18.012117] livepatch: 'livepatch_x': patching complete
<6>[   18.100000] warning: `cat' uses 32-bit capabilities (legacy support in use)
<4>[   18.150000] livepatch: loading out-of-tree module taints kernel.
<4>[   18.200000] debug: no trace, no call, just a debugging word
"""

TROUBLE = {
    "warning of 6.1": "[    1.638772] WARNING: CPU: 0 PID: 122 at fs/proc/generic.c:398 some_function+0x18f/0x230",
    "warning of 7.2": "[    3.079915] WARNING: fs/proc/generic.c:404 at some_function+0x16a/0x210, CPU#1: insmod/140",
    "null pointer": "[    3.116308] BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "page fault": "[    3.116308] BUG: unable to handle page fault for address: ffffffffdeadbeef",
    "atomic sleep": "[    3.116308] BUG: sleeping function called from invalid context at mm/some.c:1",
    "slab": "[    3.116308] BUG kmalloc-64 (Tainted: G           OE K   ): Poison overwritten",
    "bug": "[    3.116308] kernel BUG at mm/some.c:12!",
    "oops": "[    3.117003] Oops: 0002 [#1] PREEMPT SMP NOPTI",
    "invalid opcode": "[    3.117003] invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
    "protection": "[    3.1] general protection fault, probably for non-canonical address 0xdead: 0000 [#2] SMP",
    "double fault": "[    5.313069] traps: PANIC: double fault, error_code: 0x0",
    "panic": "[    2.881854] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00",
    "soft lockup": "[   26.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [cat:162]",
    "hard lockup": "[   26.1] watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1",
    "stall": "[   24.056574] rcu: INFO: rcu_preempt self-detected stall on CPU",
    "other stall": "[   24.056574] rcu: INFO: rcu_sched detected stalls on CPUs/tasks: { 1-...} (detected by 0)",
    "expedited stall": "[   24.0] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-.... }",
    "hung task": "[   40.1] INFO: task cat:162 blocked for more than 20 seconds.",
    "hung task of 7": "[   40.1] INFO: task cat:162 blocked in I/O wait for more than 20 seconds.",
    "refcount": "[    4.1] refcount_t: underflow; use-after-free.",
    "list": "[    4.1] list_add corruption. next->prev should be prev (ffff), but was 0000. (next=ffff).",
    "sanitizer": "[    4.1] UBSAN: array-index-out-of-bounds in net/some.c:1:2",
    "control flow": "[    4.1] CFI failure at some+0x1/0x2 (target: other+0x0/0x9; expected type: 0x1)",
    "endbr": "[    4.1] traps: Missing ENDBR: some+0x0/0x20",
    "any trace": "[    4.1] Call Trace:",
}


def test_an_ordinary_load_is_clean() -> None:
    assert trouble(ORDINARY) == ""
    assert trouble("") == ""


@pytest.mark.parametrize("name", TROUBLE)
@pytest.mark.parametrize("level", ["", "<4>", "<0>"])
def test_trouble_is_found_and_quoted_from_its_first_line_on(name: str, level: str) -> None:
    log = f"{ORDINARY}{level}{TROUBLE[name]}\n<4>[   99.0] Modules linked in: livepatch_x(OEK)\n"
    assert trouble(log).splitlines() == [TROUBLE[name], "[   99.0] Modules linked in: livepatch_x(OEK)"]


@pytest.mark.parametrize(
    "text",
    [
        "livepatch: symbol 'no_such_function' not found in symbol table",
        "livepatch: patch 'livepatch_x' failed for module 'sctp', refusing to load module 'sctp'",
        "livepatch: pre-patch callback failed for object 'vmlinux'",
    ],
)
def test_a_complaint_of_the_livepatch_core_is_trouble_by_its_level(text: str) -> None:
    assert trouble(f"<3>[    1.0] {text}") == f"[    1.0] {text}"
    assert trouble(f"<4>[    1.0] {text}")
    assert trouble(f"<5>[    1.0] {text}") == ""
    assert trouble(f"<3>[    1.0] {text}", complaints=False) == ""


def test_an_excerpt_has_a_bound() -> None:
    log = "[    1.0] Call Trace:\n" + f"[    1.0]  {'x' * 5000}\n" * 1000
    assert len(trouble(log).splitlines()) == 40
    assert len(trouble(log)) < 40 * 402
    assert len(tail(log)) < 13 * 402


def test_the_headline_has_no_time_and_fits_a_sentence() -> None:
    assert headline("[    3.1] BUG: something, address: 8.\nmore") == "BUG: something, address: 8"
    assert headline("[    3.1][  T162] WARNING: x") == "WARNING: x"
    assert headline("") == ""
    assert len(headline("BUG: " + "x" * 1000)) == 160


@given(st.text())
def test_any_text_can_be_a_log(text: str) -> None:
    found = trouble(text)
    assert len(found.splitlines()) <= 40
    assert len(tail(text).splitlines()) <= 12
    assert len(headline(found)) <= 160
