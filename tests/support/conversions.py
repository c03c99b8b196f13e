# SPDX-License-Identifier: GPL-2.0-or-later
"""Small changes of many kinds that can be a livepatch of a stock 6.1, as edits of its source."""

from __future__ import annotations

from edits import Edit, after, before

CASES: dict[str, list[Edit]] = {
    "a format": [Edit("fs/proc/uptime.c", '"%lu.%02lu %lu.%02lu\\n"', '"%lu.%02lu %lu.%02lu up\\n"')],
    "a number in a call": [Edit("fs/proc/loadavg.c", "FIXED_1/200", "FIXED_1/100")],
    "a string that becomes another": [Edit("fs/filesystems.c", '? "" : "nodev",', '? "dev" : "nodev",')],
    "a call more": [after("fs/proc/cmdline.c", "	seq_puts(m, saved_command_line);\n", "	seq_putc(m, ' ');\n")],
    "a call less": [Edit("fs/proc/cmdline.c", "	seq_putc(m, '\\n');\n", "")],
    "a check that returns early": [
        after("fs/proc/base.c", "static int comm_show(struct seq_file *m, void *v)\n{\n"
              "	struct inode *inode = m->private;\n	struct task_struct *p;\n",
              "\n	if (!inode)\n		return -EINVAL;\n"),
    ],
    "another error": [
        Edit("fs/proc/base.c", "		return -ESRCH;\n\n	proc_task_name(m, p, false);",
             "		return -ENOENT;\n\n	proc_task_name(m, p, false);"),
    ],
    "a static function that is inlined": [
        Edit("net/sched/sch_tbf.c", "	return q->peak.rate_bytes_ps;\n", "	return q->peak.rate_bytes_ps > 1;\n"),
    ],
    "a string of a network driver": [
        after("drivers/net/veth.c", "	strscpy(info->version, DRV_VERSION, sizeof(info->version));\n",
              '	strscpy(info->bus_info, "veth", sizeof(info->bus_info));\n'),
    ],
    "a condition in a file system": [
        Edit("fs/fat/file.c", "		if (allow_utime & MAY_WRITE)\n			return 1;",
             "		if (allow_utime & (MAY_WRITE | MAY_READ))\n			return 1;"),
    ],
    "a value that is read in another way": [
        Edit("fs/fuse/control.c", "		value = atomic_read(&fc->num_waiting);",
             "		value = max(atomic_read(&fc->num_waiting), 0);"),
    ],
    "a function of a large file": [
        Edit("kernel/sched/core.c", "nice > MAX_NICE)\n		return;\n	/*\n	 * We have to be careful",
             "nice >= MAX_NICE)\n		return;\n	/*\n	 * We have to be careful"),
    ],
    "per-cpu data of old": [
        Edit("kernel/fork.c", "per_cpu(process_counts, cpu);\n\n", "per_cpu(process_counts, cpu) + 1;\n\n"),
    ],
    "a loop with a limit": [
        Edit("crypto/af_alg.c", "		if (cmsg->cmsg_level != SOL_ALG)\n			continue;",
             "		if (cmsg->cmsg_level != SOL_ALG || cmsg->cmsg_type > 64)\n			continue;"),
    ],
    "a function of a server in the kernel": [
        Edit("fs/smb/server/smb2pdu.c",
             "	if (cmd == SMB2_ECHO_HE || cmd == SMB2_NEGOTIATE_HE ||\n", "	if (cmd == SMB2_NEGOTIATE_HE ||\n"),
    ],
    "a new function, new data and a new string": [
        before("fs/proc/uptime.c", "static int uptime_proc_show(", "static atomic_t uptime_reads = ATOMIC_INIT(0);\n\n"
               "static noinline void uptime_count(struct seq_file *m)\n{\n"
               '	seq_printf(m, "%d reads\\n", atomic_inc_return(&uptime_reads));\n}\n\n'),
        Edit("fs/proc/uptime.c", "			(idle.tv_nsec / (NSEC_PER_SEC / 100)));\n	return 0;",
             "			(idle.tv_nsec / (NSEC_PER_SEC / 100)));\n	uptime_count(m);\n	return 0;"),
    ],
    "a lock around a check": [
        Edit("net/core/net_namespace.c", "	get_random_bytes(&net->hash_mix, sizeof(u32));",
             "	mutex_lock(&net->ipv4.ra_mutex);\n	mutex_unlock(&net->ipv4.ra_mutex);\n"
             "	get_random_bytes(&net->hash_mix, sizeof(u32));"),
    ],
    "two functions of one file": [
        Edit("fs/timerfd.c", "			ctx->ticks++;\n			wake", "			ctx->ticks += 2;\n			wake"),
        Edit("fs/timerfd.c", "	schedule_work(&timerfd_work);", "	schedule_work(&timerfd_work);\n	cond_resched();"),
    ],
    "a static function that is gone": [
        Edit("fs/timerfd.c", "static void timerfd_remove_cancel(struct timerfd_ctx *ctx)\n{\n"
             "	spin_lock(&ctx->cancel_lock);\n	__timerfd_remove_cancel(ctx);\n	spin_unlock(&ctx->cancel_lock);\n}\n",
             ""),
        Edit("fs/timerfd.c", "	timerfd_remove_cancel(ctx);\n\n	if (isalarm(ctx))",
             "	spin_lock(&ctx->cancel_lock);\n	__timerfd_remove_cancel(ctx);\n	spin_unlock(&ctx->cancel_lock);\n"
             "	cond_resched();\n\n	if (isalarm(ctx))"),
    ],
    "a header of one module": [
        after("fs/fat/fat.h", "	unsigned char s = name[0];\n", "\n	if (!s)\n		return 0;\n"),
    ],
}  # fmt: skip
