// SPDX-License-Identifier: GPL-2.0-or-later
/* Replaces a function that no kernel has. */
#include "sample.h"

static int nothing(void)
{
	return 0;
}
SAMPLE_PATCH(NULL, "no_such_function_of_any_kernel", nothing);

static int begin(void)
{
	return klp_enable_patch(&patch);
}
SAMPLE_MODULE(begin);
