// SPDX-License-Identifier: GPL-2.0-or-later
/* Replaces a function of a module that loads only on Xen, so it waits for ever for its object. */
#include "sample.h"

static int nothing(void)
{
	return 0;
}
SAMPLE_PATCH("xen_gntdev", "gntdev_open", nothing);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
