// SPDX-License-Identifier: GPL-2.0-or-later
/* Works once: its first loading leaves a directory behind that its second one finds. */
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	if (!proc_mkdir("sample_once", NULL))
		return -EEXIST;
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
