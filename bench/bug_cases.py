# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of the kinds that were reported in public against livepatch tools, as source patches for the small 7.2.

Each is dangerous or easily lost, so two builders that share no comparison are asked about it (second.py). `reason`
says why their answers differ, if they do.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from edits import Edit, after, before, patch_of

from elivepatch.model.series import PatchSeries, SourcePatch

REBOOT, LOOP, VERSION, DROP = "kernel/reboot.c", "drivers/block/loop.c", "fs/proc/version.c", "fs/drop_caches.c"
CMDLINE, SIGNAL, TTY = "fs/proc/cmdline.c", "include/trace/events/signal.h", "drivers/tty/tty_io.c"
SHOW, END = "static int version_proc_show", "	return 0;\n}\n\nstatic int __init proc_version_init"
WORKER = "	struct list_head idle_list;\n	struct loop_device *lo;\n"
GROWN = Edit(LOOP, WORKER, "	struct list_head idle_list;\n	unsigned long uses;\n	struct loop_device *lo;\n")
STFU = "		static int stfu;\n"
FORCE = Edit(REBOOT, '"%d\\n", reboot_force)', '"force %d\\n", reboot_force)')
TYPE = Edit(REBOOT, '#define BOOT_ACPI_STR		"acpi"', '#define BOOT_ACPI_STR		"acpi-livepatched"')
_OWN_RULES = "klp-build has no rule about this; the builder klp makes the same checks of layouts as objects."


_SWITCH = (
    "klp-build does not compare the table that gcc made of the switch: alone it would replace type_store, and not "
    "type_show. The builder klp refuses that; objects replaces both."
)
_STATE = "klp-build itself says that nothing changes; the account of the two objects refuses in both builders."
_FLAGS = (
    "klp-build does not compare the table of warnings and itself says that nothing changes. The builder klp refuses "
    "that; objects replaces the functions with their entries."
)


class BugCase(NamedTuple):
    """A kind of change: the public thread, the edits, names to replace everywhere in a file, the known difference."""

    thread: str
    edits: tuple[Edit, ...] = ()
    renames: tuple[tuple[str, str, str], ...] = ()
    reason: str = ""

    def series(self, tree: Path) -> PatchSeries:
        """Return it as a series of one patch against the source in `tree`."""
        edits = []
        for path, old, new in self.renames:
            text = (tree / path).read_text(encoding="latin-1")
            lines = [one for one in text.split("\n") if re.search(rf"\b{old}\b", one)]
            if not lines:
                raise ValueError(f"{path} has no {old}")
            first, last = text.index(lines[0]), text.rindex(lines[-1]) + len(lines[-1])
            edits.append(Edit(path, text[first:last], re.sub(rf"\b{old}\b", new, text[first:last])))
        return PatchSeries((SourcePatch("case.patch", patch_of(tree, *edits, *self.edits).encode("latin-1")),))


CASES: dict[str, BugCase] = {
    "table of a switch": BugCase("dynup/kpatch#734", (TYPE,), reason=_SWITCH),
    "table of a switch beside another change": BugCase("dynup/kpatch#734", (TYPE, FORCE), reason=_SWITCH),
    "ratelimit state": BugCase(
        "dynup/kpatch#402",
        (
            after(
                TTY,
                "#include <linux/uaccess.h>\n",
                "#undef DEFAULT_RATELIMIT_BURST\n#define DEFAULT_RATELIMIT_BURST 3\n",
            ),
        ),
        reason=_STATE,
    ),
    "flags of a warning": BugCase(
        "(found by make mutants)",
        (Edit(LOOP, "	WARN_ON_ONCE(lo->lo_state == Lo_bound &&", "	WARN_ON(lo->lo_state == Lo_bound &&"),),
        reason=_FLAGS,
    ),
    "unlikely part alone": BugCase(
        "dynup/kpatch#865",
        (Edit("kernel/workqueue.c", "isn't complete after %u tries", "is not complete after %u tries"),),
    ),
    "data of start-up read": BugCase(
        "dynup/kpatch#538", (Edit(CMDLINE, "seq_puts(m, saved_command_line)", "seq_puts(m, boot_command_line)"),)
    ),
    "function of start-up called": BugCase(
        "dynup/kpatch#538",
        (
            Edit(
                CMDLINE,
                "	seq_putc(m, '\\n');\n",
                "	seq_putc(m, '\\n');\n	if (!m->private)\n		parse_early_param();\n",
            ),
        ),
    ),
    "main loop of a kernel thread": BugCase(
        "dynup/kpatch#982",
        (
            Edit(
                "mm/vmscan.c",
                "	tsk->flags |= PF_MEMALLOC | PF_KSWAPD;\n",
                "	tsk->flags |= PF_MEMALLOC | PF_KSWAPD;\n	cond_resched();\n",
            ),
        ),
    ),
    "enumerators shifted": BugCase("dynup/kpatch#1373", (before(LOOP, "	Lo_bound,\n", "	Lo_claimed,\n"),)),
    "structure grown": BugCase("dynup/kpatch#911", (GROWN,)),
    "structure grown under a new name": BugCase("dynup/kpatch#911", (GROWN,), ((LOOP, "loop_worker", "loop_helper"),)),
    "member renamed": BugCase("dynup/kpatch#218", (), ((LOOP, "last_ran_at", "ran_at"),)),
    "member made unsigned": BugCase(
        "dynup/kpatch#1140", (Edit(LOOP, "	int		lo_flags;\n", "	unsigned int	lo_flags;\n"),)
    ),
    "timer of the livepatch": BugCase(
        "dynup/kpatch#755",
        (
            after(VERSION, "#include <linux/kernel.h>\n", "#include <linux/timer.h>\n"),
            before(
                VERSION,
                SHOW,
                'static void seen(struct timer_list *unused)\n{\n	pr_info("seen\\n");\n}\n'
                "static DEFINE_TIMER(seen_timer, seen);\n\n",
            ),
            before(VERSION, END, "	mod_timer(&seen_timer, jiffies + 40 * HZ);\n"),
        ),
    ),
    "text handed out": BugCase("dynup/kpatch#1225", (before(VERSION, END, '	m->private = "handed out";\n'),)),
    "symbol of a module in vmlinux": BugCase(
        "dynup/kpatch#1238",
        (
            before(VERSION, SHOW, "extern int zlib_inflate_workspacesize(void);\n\n"),
            before(VERSION, END, '	seq_printf(m, "%d\\n", zlib_inflate_workspacesize());\n'),
        ),
    ),
    "static grown": BugCase("dynup/kpatch#698", (Edit(DROP, STFU, "		static long stfu;\n"),)),
    "static of another type": BugCase("dynup/kpatch#698", (Edit(DROP, STFU, "		static unsigned int stfu;\n"),)),
    "two statics of one name": BugCase(
        "dynup/kpatch#514",
        (
            Edit(
                DROP,
                "		if (sysctl_drop_caches & 1) {\n",
                "		if (sysctl_drop_caches & 1) {\n			static int stfu;\n\n			stfu++;\n"
                "			WRITE_ONCE(stfu, stfu & 15);\n",
            ),
        ),
    ),
    "text of a trace event": BugCase(
        "dynup/kpatch#470",
        (
            Edit(
                SIGNAL,
                'TP_printk("sig=%d errno=%d code=%d sa_handler',
                'TP_printk("signal=%d errno=%d code=%d sa_handler',
            ),
        ),
    ),
    "assignment of a trace event": BugCase(
        "dynup/kpatch#470",
        (
            Edit(
                SIGNAL,
                "		__entry->sa_flags	= ka->sa.sa_flags;\n",
                "		__entry->sa_flags	= ka->sa.sa_flags & 255;\n",
            ),
        ),
    ),
    "field of a trace event": BugCase(
        "dynup/kpatch#470",
        (
            Edit(
                SIGNAL,
                "		__field(	unsigned long,	sa_flags	)\n",
                "		__field(	unsigned long,	sa_flags	)\n		__field(	int,	more	)\n",
            ),
        ),
    ),
    "name that is taken": BugCase(
        "(link error of a real build)",
        (before(VERSION, SHOW, "int sysctl_drop_caches = 1;\n\n"), before(VERSION, END, "	sysctl_drop_caches++;\n")),
    ),
    "selftest beside the fix": BugCase(
        "(the shape of upstream commits)",
        (FORCE, after("tools/testing/selftests/Makefile", "# SPDX-License-Identifier: GPL-2.0\n", "# more\n")),
    ),
}
"""Cases by name. Those of loading, of hosts and of records have no part that a builder answers."""
