// SPDX-License-Identifier: GPL-2.0-or-later
/* Kills the kernel when its function is called. */
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	return READ_ONCE(*(int *)8);
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
