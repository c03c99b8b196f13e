// SPDX-License-Identifier: GPL-2.0-or-later
/* Reports success in the name of the guest, then kills the kernel. */
#include "forger.h"
#include "sample.h"

static int cmdline_show(struct seq_file *file, void *unused)
{
	forge();
	panic("this sample kills the kernel");
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
