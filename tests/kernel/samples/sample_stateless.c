// SPDX-License-Identifier: GPL-2.0-or-later
/* Works alone; the kernel does not let it replace sample_earlier, because it does not know that one's state. */
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	patch.replace = true;
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
