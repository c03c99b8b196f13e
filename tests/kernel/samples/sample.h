/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every sample livepatch begins with: the headers, and the one line of /proc/cmdline most of them change. */
#ifndef ELIVEPATCH_SAMPLE_H
#define ELIVEPATCH_SAMPLE_H

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

/* Replaces one function of one object (NULL is vmlinux); the module's init calls klp_enable_patch(&patch). */
#define SAMPLE_PATCH(object, old, new)                                                     \
	static struct klp_func funcs[] = { { .old_name = old, .new_func = (void *)new }, {} }; \
	static struct klp_object objects[] = { { .name = object, .funcs = funcs }, {} };       \
	static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects }

#define SAMPLE_MODULE(begin)                                \
	static void sample_exit(void) {}                       \
	module_init(begin);                                    \
	module_exit(sample_exit);                              \
	MODULE_LICENSE("GPL");                                 \
	MODULE_DESCRIPTION("sample for the tests of trials");  \
	MODULE_INFO(livepatch, "Y")

#endif
