// SPDX-License-Identifier: GPL-2.0-or-later
/* Is live before others: it keeps a state that its successor must know. */
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by an earlier sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static struct klp_state states[] = { { .id = 1, .version = 1 }, {} };

static int begin(void)
{
	patch.states = states;
	patch.replace = true;
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
