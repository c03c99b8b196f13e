// SPDX-License-Identifier: GPL-2.0-or-later
/* Replaces a function that one task never leaves: the main loop of kthreadd. */
#include "sample.h"

static int never_called(void *unused)
{
	return 0;
}
SAMPLE_PATCH(NULL, "kthreadd", never_called);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
