// SPDX-License-Identifier: GPL-2.0-or-later
/* Makes a file that stays when it is disabled and goes only when it is unloaded. */
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int lingering_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}

static int begin(void)
{
	proc_create_single("sample_lingers", 0444, NULL, lingering_show);
	return klp_enable_patch(&patch);
}

static void end(void)
{
	remove_proc_entry("sample_lingers", NULL);
}

module_init(begin);
module_exit(end);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("sample for the tests of trials");
MODULE_INFO(livepatch, "Y");
