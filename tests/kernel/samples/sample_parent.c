// SPDX-License-Identifier: GPL-2.0-or-later
/* Replaces a function of a module that needs three others: the first line of /proc/net/sctp/snmp. */
#include "sample.h"

static int snmp_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH("sctp", "sctp_snmp_seq_show", snmp_show);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
