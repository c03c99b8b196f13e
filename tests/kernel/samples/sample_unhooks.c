// SPDX-License-Identifier: GPL-2.0-or-later
/* Says that it is enabled, but takes the call at the entry of its function away, so the old code runs. */
#include <linux/kprobes.h>

#include "sample.h"

typedef unsigned long (*lookup)(const char *name);
typedef void *(*poke)(void *address, const void *code, size_t size);

static int cmdline_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static void unhook(struct work_struct *unused)
{
	static const unsigned char nop[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
	static struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	lookup find;
	poke text_poke;
	void *entry;

	if (register_kprobe(&probe) != 0)
		return;
	find = (lookup)probe.addr;
	unregister_kprobe(&probe);
	text_poke = (poke)find("text_poke_kgdb");
	entry = (void *)find("cmdline_proc_show");
	if (text_poke && entry)
		text_poke(entry, nop, sizeof(nop));
}
static DECLARE_WORK(work, unhook);

static int begin(void)
{
	int status = klp_enable_patch(&patch);

	if (status == 0)
		schedule_work(&work);
	return status;
}
SAMPLE_MODULE(begin);
