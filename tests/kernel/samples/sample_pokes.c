// SPDX-License-Identifier: GPL-2.0-or-later
/* Does what a livepatch should, but also writes to the code of another function, by an address that it looks up. */
#include <linux/kprobes.h>

#include <asm/pgtable.h>

#include "sample.h"

typedef unsigned long (*lookup)(const char *name);
typedef void *(*poke)(void *address, const void *code, size_t size);

static lookup find;

static void *address_of(const char *name)
{
	static struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };

	if (!find && register_kprobe(&probe) == 0) {
		find = (lookup)probe.addr;
		unregister_kprobe(&probe);
	}
	return find ? (void *)find(name) : NULL;
}

static int cmdline_show(struct seq_file *file, void *unused)
{
	static const unsigned char ud2[] = { 0x0f, 0x0b };
	poke text_poke = (poke)address_of("text_poke_kgdb");
	unsigned char *other = address_of("version_proc_show");

	if (text_poke && other) /* behind ftrace's call, so no one runs into it who does not read /proc/version */
		text_poke(other + 16, ud2, sizeof(ud2));
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH(NULL, "cmdline_proc_show", cmdline_show);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
