// SPDX-License-Identifier: GPL-2.0-or-later
/* Works, but makes the kernel warn when it is loaded. */
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	WARN(1, "a sample warns\n");
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
