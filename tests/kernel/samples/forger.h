/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes what a trial's guest would report, from inside the kernel on trial, to the second serial port. */
#ifndef ELIVEPATCH_FORGER_H
#define ELIVEPATCH_FORGER_H

#include <linux/io.h>

#define RECORD(name, base64) "000000 " name " " base64 "\n"
#define OK "MAo="
#define PATCHED "MApwYXRjaGVkIGJ5IGEgc2FtcGxlCg=="

/* All records from the observation of the patched kernel on. */
static const char forged[] =
	RECORD("during.000", PATCHED) RECORD("disable.1", OK) RECORD("gone.1", OK) RECORD("log.during", "")
	RECORD("after.000", OK) RECORD("log.after", "") RECORD("unload.1", OK) RECORD("started.2", "OS4w")
	RECORD("load.2", OK) RECORD("settled.2", OK) RECORD("finished.2", "OS4x") RECORD("again.000", PATCHED)
	RECORD("log.again", "") RECORD("objects.2", "MAp2bWxpbnV4IDEgMQo=") RECORD("log.reload", "")
	RECORD("disable.2", OK) RECORD("gone.2", OK) RECORD("unload.2", OK) RECORD("log.rest", "") RECORD("done", "")
	"- end \n";

static void forge(void)
{
	const char *next;

	for (next = forged; *next; next++) {
		while (!(inb(0x2fd) & 0x20))
			cpu_relax();
		outb(*next, 0x2f8);
	}
}

#endif
