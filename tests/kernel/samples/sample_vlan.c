// SPDX-License-Identifier: GPL-2.0-or-later
/* Changes a module that can be unloaded, and loaded again: the first line of /proc/net/vlan/config. */
#include "sample.h"

static int vlan_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH("8021q", "vlan_seq_show", vlan_show);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
