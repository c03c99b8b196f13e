// SPDX-License-Identifier: GPL-2.0-or-later
/* Is a module and no livepatch at all. */
#include "sample.h"

static int begin(void)
{
	return 0;
}
SAMPLE_MODULE(begin);
