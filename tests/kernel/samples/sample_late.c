// SPDX-License-Identifier: GPL-2.0-or-later
/* Works if the module that it changes is there first; keeps the module from coming later. */
#include "sample.h"

static int vlan_show(struct seq_file *file, void *unused)
{
	seq_puts(file, "patched by a sample\n");
	return 0;
}
SAMPLE_PATCH("8021q", "vlan_seq_show", vlan_show);

static int before_patching(struct klp_object *object)
{
	return object->mod->state == MODULE_STATE_COMING ? -EINVAL : 0;
}

static int begin(void)
{
	objects[0].callbacks.pre_patch = before_patching;
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
