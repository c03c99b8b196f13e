// SPDX-License-Identifier: GPL-2.0-or-later
/* Does what a livepatch should, but keeps the kernel from printing on the console. */
#include <linux/printk.h>

#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	console_printk[0] = 0;
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
