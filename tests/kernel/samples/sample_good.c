// SPDX-License-Identifier: GPL-2.0-or-later
/* Does what a livepatch should: /proc/cmdline says something else as long as it is enabled. */
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
