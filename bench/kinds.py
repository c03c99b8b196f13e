# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of change that a livepatch can make, as source patches for the small kernels; used to compare builders.

Each replaces text of the kernel's source that is the same from 6.12 to 7.2.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from edits import Edit, after, before, patch_of

from elivepatch.model.series import PatchSeries, SourcePatch

VERSION, LOADAVG, UPTIME = "fs/proc/version.c", "fs/proc/loadavg.c", "fs/proc/uptime.c"
SHOW, END = "static int version_proc_show", "	return 0;\n}\n\nstatic int __init proc_version_init"
POLL = "	poll_wait(file, &ctx->wqh, wait);\n"
HEADER = "fs/proc/patched.h"

LOAD = Edit(LOADAVG, '"%lu.%02lu %lu.%02lu %lu.%02lu %u/%d %d\\n"', '"load %lu.%02lu %lu.%02lu %lu.%02lu %u/%d %d\\n"')
# After the numbers, which the guest's script reads.
MINUTES = Edit(UPTIME, '"%lu.%02lu %lu.%02lu\\n"', '"%lu.%02lu %lu.%02lu up\\n"')
SAYS = before(VERSION, END, '	seq_puts(m, "patched\\n");\n')
LOOP = Edit("drivers/block/loop.c", 'sysfs_emit(buf, "%llu\\n", (unsigned long long)lo->lo_offset)',
            'sysfs_emit(buf, "at %llu\\n", (unsigned long long)lo->lo_offset)')  # fmt: skip
MINIX = Edit("fs/minix/inode.c", "	buf->f_namelen = sbi->s_namelen;\n", "	buf->f_namelen = sbi->s_namelen - 1;\n")
SAYS_PATCHED = "/proc/version =~ (?m)^patched$"


class Kind(NamedTuple):
    """Edits of existing files, new files, and the expectation of the trial (None: it must load and revert)."""

    edits: tuple[Edit, ...]
    expectation: str | None = None
    added: tuple[tuple[str, str], ...] = ()

    def patch(self, tree: Path) -> str:
        """Return the patch against the source in `tree`."""
        return patch_of(tree, *self.edits) + "".join(_new_file(path, text) for path, text in self.added)

    def series(self, tree: Path) -> PatchSeries:
        """Return it as a series of one patch."""
        return PatchSeries((SourcePatch("kind.patch", self.patch(tree).encode("latin-1")),))


def _new_file(path: str, text: str) -> str:
    lines = text.splitlines(keepends=True)
    return f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{len(lines)} @@\n" + "".join(f"+{line}" for line in lines)


KINDS: dict[str, Kind] = {
    "one line": Kind((LOAD,), "/proc/loadavg =~ ^load "),
    "several functions": Kind((LOAD, MINUTES, SAYS), "cat /proc/loadavg /proc/uptime =~ ^load .*\\n.* up"),
    "new function": Kind(
        (
            before(
                VERSION, SHOW, 'static noinline void says(struct seq_file *m)\n{\n	seq_puts(m, "patched\\n");\n}\n\n'
            ),
            before(VERSION, END, "	says(m);\n"),
        ),
        SAYS_PATCHED,
    ),
    "static local": Kind(
        (Edit("fs/drop_caches.c", "stfu |= sysctl_drop_caches & 4;", "stfu |= sysctl_drop_caches & 12;"),)
    ),
    "jump label": Kind(
        (
            before(
                "drivers/char/random.c",
                "	return get_random_bytes_user(iter);\n}\n\nstatic ssize_t random_read_iter",
                "	mb();\n",
            ),
        )
    ),
    "static call": Kind((before(VERSION, END, "	cond_resched();\n"), SAYS), SAYS_PATCHED),
    # Not a function that reads user memory: 6.12 patches a constant into it at boot, which no livepatch can carry.
    "alternatives": Kind(
        (
            after(VERSION, "#include <linux/utsname.h>\n", "#include <linux/bitops.h>\n#include <asm/cpufeature.h>\n"),
            before(
                VERSION,
                END,
                '	if (static_cpu_has(X86_FEATURE_POPCNT) && hweight64(m->size))\n		seq_puts(m, "patched\\n");\n',
            ),
        ),
        SAYS_PATCHED,
    ),
    "module": Kind((LOOP,)),
    "two modules": Kind((LOOP, MINIX)),
    "header": Kind((before("fs/minix/minix.h", "	return sb->s_fs_info;\n", "	mb();\n"),)),
    "new file": Kind(
        (
            after(VERSION, '#include "internal.h"\n', '#include "patched.h"\n'),
            before(VERSION, END, "	says_patched(m);\n"),
        ),
        SAYS_PATCHED,
        added=(
            (HEADER, 'static inline void says_patched(struct seq_file *m)\n{\n	seq_puts(m, "patched\\n");\n}\n'),
        ),
    ),
    "line shift": Kind(
        (
            before("fs/eventfd.c", "#include <linux/file.h>\n", "/*\n * three\n * lines\n * more */\n"),
            after("fs/eventfd.c", POLL, "	WARN_ON(!ctx);\n"),
        )
    ),
}
"""Kinds by name: at least the twelve on which builders must agree."""

TESTED = ("several functions", "two modules", "line shift")
"""Kinds that the test suite tries each time; `make equal` tries all."""
