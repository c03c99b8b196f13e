/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a hostile build would try: each line of output is a name and how it ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void said(const char *name, long result)
{
	printf("%s %s\n", name, result < 0 ? strerrorname_np(errno) : "done");
	fflush(stdout);
}

static int idle(void *unused)
{
	return 0;
}

static void calls(void)
{
	static char page[4096], stack[65536];

	said("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, NULL));
	said("umount2", syscall(SYS_umount2, "/tmp", 0));
	said("pivot_root", syscall(SYS_pivot_root, "/", "/tmp"));
	said("open_tree", syscall(SYS_open_tree, -100, "/", 0));
	said("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
	said("unshare", syscall(SYS_unshare, CLONE_NEWUSER));
	said("setns", syscall(SYS_setns, 0, 0));
	said("ptrace", syscall(SYS_ptrace, 0, 0, 0, 0));
	said("process_vm_readv", syscall(SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0));
	said("bpf", syscall(SYS_bpf, 0, page, sizeof(page)));
	said("keyctl", syscall(SYS_keyctl, 0, -4, 1));
	said("add_key", syscall(SYS_add_key, "user", "a", "b", 1, -4));
	said("perf_event_open", syscall(SYS_perf_event_open, page, 0, -1, -1, 0));
	said("io_uring_setup", syscall(SYS_io_uring_setup, 1, page));
	said("userfaultfd", syscall(SYS_userfaultfd, 1));
	said("init_module", syscall(SYS_init_module, page, 1, ""));
	said("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
	said("reboot", syscall(SYS_reboot, 0, 0, 0, NULL));
	said("syslog", syscall(SYS_syslog, 3, page, sizeof(page)));
	said("personality", syscall(SYS_personality, 0x0040000));
	said("open_by_handle_at", syscall(SYS_open_by_handle_at, -100, page, 0));
	said("clone_newuser", clone(idle, stack + sizeof(stack), CLONE_NEWUSER | SIGCHLD, NULL));
	said("clone_newnet", clone(idle, stack + sizeof(stack), CLONE_NEWNET | SIGCHLD, NULL));
	said("setuid", setuid(0));
	said("chroot", chroot("/tmp"));
}

/* The 32-bit entry has other numbers, which a filter for 64-bit ones alone would let pass: 26 is ptrace there. */
static void other_entry(void)
{
	pid_t child = fork();
	int status;

	if (!child) {
		long result;

		signal(SIGSYS, SIG_DFL);
		__asm__ volatile("int $0x80" : "=a"(result) : "a"(26), "b"(0), "c"(0), "d"(0), "S"(0));
		_exit(result < 0 ? 1 : 0);
	}
	waitpid(child, &status, 0);
	printf("entry32 %s\n", WIFSIGNALED(status) ? "killed" : WEXITSTATUS(status) ? "refused" : "done");
}

static void forks(void)
{
	int made = 0;

	for (; made < 3000; made++) {
		pid_t child = fork();

		if (child < 0)
			break;
		if (!child) {
			pause();
			_exit(0);
		}
	}
	printf("forks %d\n", made);
	fflush(stdout);
	kill(0, SIGKILL);
}

static void memory(void)
{
	said("memory", mmap(NULL, 7UL << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
}

static void size(void)
{
	int file = open("/out/large", O_CREAT | O_WRONLY, 0644);

	signal(SIGXFSZ, SIG_IGN);
	said("size_small", pwrite(file, "x", 1, 1 << 20));
	said("size", pwrite(file, "x", 1, 3L << 30));
	said("truncate", ftruncate(file, 3L << 30));
}

static void reach(void)
{
	int pair[2];

	said("inet", socket(AF_INET, SOCK_STREAM, 0));
	said("inet6", socket(AF_INET6, SOCK_DGRAM, 0));
	said("raw", socket(AF_INET, SOCK_RAW, 1));
	said("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
	said("packet", socket(AF_PACKET, SOCK_RAW, 0));
	said("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
	/* The kernel reads 32 bits of the family, the filter sees 64. */
	said("wide", syscall(SYS_socket, (1UL << 32) | AF_VSOCK, SOCK_STREAM, 0));
	said("pair", socketpair(AF_TIPC, SOCK_SEQPACKET, 0, pair));
	said("unix", socket(AF_UNIX, SOCK_STREAM, 0));
}

int main(int count, char **argument)
{
	if (!strcmp(argument[1], "calls"))
		calls();
	else if (!strcmp(argument[1], "entry32"))
		other_entry();
	else if (!strcmp(argument[1], "forks"))
		forks();
	else if (!strcmp(argument[1], "memory"))
		memory();
	else if (!strcmp(argument[1], "size"))
		size();
	else if (!strcmp(argument[1], "reach"))
		reach();
	return 0;
}
