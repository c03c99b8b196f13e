// SPDX-License-Identifier: GPL-2.0-or-later
/* Never returns from its function. */
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	preempt_disable();
	for (;;)
		cpu_relax();
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
