# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes that cannot be a livepatch, as edits of the kernel source, each with the expected code."""

from __future__ import annotations

from typing import NamedTuple

from edits import Edit, after, before

VERSION, SHOW, END = "fs/proc/version.c", "static int version_proc_show", "	return 0;\n}\n\nstatic int __init"
POLL = "	poll_wait(file, &ctx->wqh, wait);\n"
STRUCT = "	unsigned int flags;\n	int id;\n};"
BOTH = ("6.1", "6.12")


class Case(NamedTuple):
    """A change, the expected code, and words of the expected message and excerpt."""

    code: str
    edits: list[Edit]
    message: tuple[str, ...]
    excerpt: str = ""
    on: tuple[str, ...] = ("6.1",)


CASES: dict[str, Case] = {
    "another architecture": Case(
        "not-built", [before("arch/arm64/kernel/process.c", "#include <linux/compat.h>\n", "/* */\n")],
        ("arch/arm64/kernel/process.c",),
    ),
    "a driver that is off": Case(
        "not-built", [before("drivers/gpu/drm/i915/i915_irq.c", "#include <linux/slab.h>\n", "/* */\n")],
        ("drivers/gpu/drm/i915/i915_irq.c",), on=BOTH,
    ),
    "a comment": Case(
        "no-change", [before("fs/proc/meminfo.c", "static void show_val_kb(", "/* why */\n")], ("fs/proc/meminfo.c",),
        on=BOTH,
    ),
    "documentation": Case("no-change", [Edit("MAINTAINERS", "Maintainers List\n", "List of maintainers\n")], ()),
    "more memory than the kernel can add up": Case(
        "module-too-large",
        [before("fs/proc/meminfo.c", "static int meminfo_proc_show(", "static char vast[1ULL << 33] __used;\n"),
         before("fs/proc/meminfo.c", "	si_swapinfo(&i);\n", "	vast[0] = 1;\n")],
        ("8192 MiB", ".bss.vast"),
    ),
    "a gibibyte of data": Case(
        "module-too-large",
        [before("fs/proc/meminfo.c", "static int meminfo_proc_show(", "static char vast[1 << 30] __used = { 1 };\n"),
         before("fs/proc/meminfo.c", "	si_swapinfo(&i);\n", "	vast[0] = 2;\n")],
        ("fs/proc/meminfo.c", "larger than a livepatch may be"),
    ),
    "an __init function": Case(
        "init-only", [Edit(VERSION, 'proc_create_single("version", 0,', 'proc_create_single("version", 0444,')],
        (VERSION, "proc_version_init"), ".init.text", BOTH,
    ),
    "a string of an __init function": Case(
        "init-only", [Edit(VERSION, 'proc_create_single("version"', 'proc_create_single("versions"')],
        (VERSION, "proc_version_init"), ".init.text",
    ),
    "an __exit function": Case(
        "init-only", [before("net/8021q/vlan.c", "	vlan_netlink_fini();\n", "	cond_resched();\n")],
        ("net/8021q/vlan.c", "vlan_cleanup_module"), ".exit.text",
    ),
    "a structure that grows": Case(
        "data-layout", [Edit("fs/eventfd.c", STRUCT, STRUCT.replace("\n};", "\n	u64 extra;\n};")),
                        after("fs/eventfd.c", POLL, "	ctx->extra++;\n")],
        ("fs/eventfd.c", "struct eventfd_ctx from 48 to 56 bytes"), "+ u64 extra; /* 48 8 */", BOTH,
    ),
    "members that change places": Case(
        "data-layout", [Edit("fs/eventfd.c", STRUCT, "	int id;\n	unsigned int flags;\n};")],
        ("fs/eventfd.c", "struct eventfd_ctx (same size, other members)"), "- unsigned int flags; /* 40 4 */",
    ),
    "a structure without a tag": Case(
        "data-layout", [before("fs/binfmt_misc.c", "} Node;", "	long extra;\n")],
        ("fs/binfmt_misc.c", "Node from"), "+ long int extra;", BOTH,
    ),
    # Real fixes of these files change this; the diff tool accepts them and the kernel loads them silently.
    "a device that grows": Case(
        "data-layout", [after("drivers/hid/hid-multitouch.c", "struct mt_device {\n", "	unsigned long more;\n")],
        ("drivers/hid/hid-multitouch.c", "struct mt_device from"), "+ long unsigned int more;",
    ),
    "a buffer that a device shares and that shrinks": Case(
        "data-layout", [Edit("drivers/net/virtio_net.c", "	struct virtio_net_ctrl_mq mq;\n	u8 promisc;",
                             "	struct virtio_net_ctrl_mq mq;\n	u8 promisc __aligned(64);")],
        ("drivers/net/virtio_net.c", "struct control_buf"), "promisc",
    ),
    "metadata that grow": Case(
        "data-layout",
        [after("drivers/md/dm-thin-metadata.c", "struct dm_pool_metadata {\n", "	struct list_head more;\n")],
        ("drivers/md/dm-thin-metadata.c", "struct dm_pool_metadata from"), "+ struct list_head more;",
    ),
    "a member in what was padding": Case(
        "data-layout",
        [after("net/netfilter/xt_hashlimit.c", "	bool rnd_initialized;\n", "	bool ratematch;\n"),
         before("net/netfilter/xt_hashlimit.c", "	hinfo->rnd_initialized = false;", "	hinfo->ratematch = true;\n")],
        ("net/netfilter/xt_hashlimit.c", "struct xt_hashlimit_htable (same size, other members)"), "ratematch",
    ),
    "a member at the end of a filter": Case(
        "data-layout",
        [before("net/sched/cls_route.c", "	u32			handle;\n	struct route4_bucket", "	u32			more;\n")],
        ("net/sched/cls_route.c", "struct route4_filter"), "more",
    ),
    "a structure whose size is in a table": Case(
        "data-layout",
        [after("net/sched/sch_choke.c", "struct choke_sched_data {\n", "	u64 extra;\n")],
        ("net/sched/sch_choke.c", "struct choke_sched_data from"), "+ u64 extra; /* 0 8 */",
    ),
    "a value of initialised data": Case(
        "data-change", [Edit("fs/pipe.c", "pipe_max_size = 1048576;", "pipe_max_size = 2097152;")],
        ("fs/pipe.c", "pipe_max_size"), "changed section .data.pipe_max_size",
    ),
    "a pointer in a table of operations": Case(
        "ops-table",
        [Edit("fs/proc/devices.c", "	.stop  = devinfo_stop,", "	.stop  = devinfo_halt,"),
         before("fs/proc/devices.c", "static const struct seq_operations devinfo_ops",
                "static void devinfo_halt(struct seq_file *f, void *v)\n{\n	cond_resched();\n}\n\n")],
        ("fs/proc/devices.c", "devinfo_ops points at devinfo_halt instead of devinfo_stop"),
        "changed section .rela.rodata.devinfo_ops", BOTH,
    ),
    "the description of a module": Case(
        "data-change",
        [after("net/8021q/vlan.c", 'MODULE_LICENSE("GPL");', '\nMODULE_DESCRIPTION("x");')],
        ("net/8021q/vlan.c", "description"), "size mismatch", ("6.12",),
    ),
    "new data among old": Case(
        "new-data",
        [before("net/sched/cls_flow.c", "struct flow_head {\n", "static int heads __read_mostly;\n"),
         before("net/sched/cls_flow.c", "	head = kzalloc(sizeof(*head), GFP_KERNEL);\n",
                "	if (heads++ > 100000)\n		return -ENOSPC;\n")],
        ("net/sched/cls_flow.c", "heads", ".data..read_mostly"), "data section .data..read_mostly",
    ),
    "a header that everybody includes": Case(
        "header", [before("include/linux/eventfd.h", "struct eventfd_ctx;\n", "/* */\n")],
        ("include/linux/eventfd.h", "objects of this kernel"), "and ", BOTH,
    ),
    "a header that everybody gets without asking": Case(
        "header", [before("include/linux/kconfig.h", "#ifdef CONFIG_CPU_BIG_ENDIAN\n", "/* */\n")],
        ("include/linux/kconfig.h",), "and ",
    ),
    "assembly": Case(
        "assembly", [before("arch/x86/entry/entry_64.S", "SYM_CODE_START(entry_SYSCALL_64)", "/* */\n")],
        ("arch/x86/entry/entry_64.S",), on=BOTH,
    ),
    "a constant that assembly uses too": Case(
        "assembly", [Edit("arch/x86/kvm/vmx/run_flags.h", "#define VMX_RUN_VMRESUME	", "#define VMX_RUN_VMRESUME 0 +")],
        ("arch/x86/kvm/vmx/run_flags.h", "arch/x86/kvm/vmx/vmenter.S"), on=BOTH,
    ),
    "a directory that is built without function entries": Case(
        "no-function-entry", [Edit("lib/uuid.c", "	return __uuid_parse(uuid, u->b, guid_index);",
                                   "	return -__uuid_parse(uuid, u->b, guid_index);")],
        ("lib/uuid.c", "guid_parse"), "guid_parse", BOTH,
    ),
    "a function that must not be traced": Case(
        "no-function-entry",
        [after("kernel/time/timekeeping.c", "u64 notrace ktime_get_mono_fast_ns(void)\n{\n", "	barrier();\n")],
        ("kernel/time/timekeeping.c", "ktime_get_mono_fast_ns"), "patchable function entry",
    ),
    "a static variable that nobody uses any more": Case(
        "static-local",
        [Edit("fs/drop_caches.c", "		if (!stfu) {\n", "		{\n"),
         Edit("fs/drop_caches.c", "		stfu |= sysctl_drop_caches & 4;\n", ""),
         Edit("fs/drop_caches.c", "		static int stfu;\n\n", "")],
        ("fs/drop_caches.c", "drop_caches_sysctl_handler in", "variable stfu."), "stfu", BOTH,
    ),
    "an export more": Case(
        "new-export",
        [after("fs/eventfd.c", "EXPORT_SYMBOL_GPL(eventfd_ctx_put);\n", "EXPORT_SYMBOL_GPL(eventfd_more);\n"),
                   before("fs/eventfd.c", "static void eventfd_free_ctx(",
                          "void eventfd_more(void);\nvoid eventfd_more(void)\n{\n	cond_resched();\n}\n\n")],
        ("fs/eventfd.c",), "not selected for inclusion", BOTH,
    ),
    "an export less": Case(
        "export", [Edit("fs/eventfd.c", "EXPORT_SYMBOL_GPL(eventfd_ctx_put);\n", "")], ("fs/eventfd.c",), "", BOTH,
    ),
    "the boot loader": Case(
        "unpatchable-code", [before("arch/x86/boot/main.c", "void main(void)\n", "/* */\n")],
        ("arch/x86/boot/main.c",), on=BOTH,
    ),
    "code that the vdso includes": Case(
        "unpatchable-code", [before("lib/vdso/gettimeofday.c", "#include <vdso/datapage.h>\n", "/* */\n")],
        ("lib/vdso/gettimeofday.c", "vclock_gettime.c"),
    ),
    "a member that does not exist": Case(
        "compile-error", [Edit(VERSION, "utsname()->version)", "utsname()->nosuch)")], (VERSION,), "nosuch",
    ),
    "a function that does not exist": Case(
        "compile-error", [before(VERSION, END, "	no_such_function();\n")], (VERSION,), "no_such_function",
    ),
    "a function that another file would have to define": Case(
        "undefined-symbol",
        [before(VERSION, SHOW, "extern int no_such_function(void);\n"),
         Edit(VERSION, END, END.replace("return 0", "return no_such_function()"))],
        ("no_such_function",), "no_such_function", BOTH,
    ),
    "a static key of a module": Case(
        "jump-label",
        [after("arch/x86/kvm/vmx/vmx.c",
               "static void vmx_inject_nmi(struct kvm_vcpu *vcpu)\n{\n	struct vcpu_vmx *vmx = to_vmx(vcpu);\n",
               "\n	cond_resched();\n")],
        ("vmx_inject_nmi", "enable_evmcs"), "static_key_enabled()",
    ),
    "a static key of the series itself": Case(
        "jump-label",
        [before(VERSION, SHOW, "static DEFINE_STATIC_KEY_FALSE(version_key);\n"),
         before(VERSION, END, "	if (static_branch_unlikely(&version_key))\n		return 1;\n")],
        ("version_key",), "", BOTH,
    ),
    "a static call of a module": Case(
        "static-call",
        [before("arch/x86/kvm/pmu.c", "	return static_call(kvm_x86_pmu_is_valid_rdpmc_ecx)(", "	cond_resched();\n")],
        ("kvm_pmu_is_valid_rdpmc_ecx",), "Found a static call",
    ),
    "another section for old data": Case(
        "section-change", [Edit("fs/pipe.c", "pipe_max_size = 1048576;", "pipe_max_size __read_mostly = 1048576;")],
        ("fs/pipe.c", "pipe_max_size"), "pipe_max_size",
    ),
    "a static function that becomes global": Case(
        "section-change",
        [Edit(VERSION, SHOW, "int version_proc_show(struct seq_file *m, void *v);\nint version_proc_show")],
        (VERSION, "version_proc_show"), "version_proc_show", BOTH,
    ),
    "a weak function that the architecture overrides": Case(
        "weak-overridden",
        [after("fs/proc/meminfo.c", "arch_report_meminfo(struct seq_file *m)\n{\n", '	seq_puts(m, "x");\n')],
        ("fs/proc/meminfo.c", "arch_report_meminfo"), on=BOTH,
    ),
    "Kconfig": Case(
        "patch-build-files", [Edit("fs/Kconfig", 'menu "File systems"', 'menu "Filesystems"')], ("fs/Kconfig",),
    ),
    "a Makefile beside a source": Case(
        "patch-build-files",
        [after("fs/Makefile", "obj-y :=", " nothing.o"),
         Edit("fs/pipe.c", "pipe_max_size = 1048576;", "pipe_max_size = 1;")],
        ("fs/Makefile",),
    ),
    "a grammar that C is made from": Case(
        "patch-build-files", [before("crypto/asymmetric_keys/x509.asn1", "TBSCertificate ::= SEQUENCE {", "-- x\n")],
        ("crypto/asymmetric_keys/x509.asn1",),
    ),
    "a table of operations that gains a pointer": Case(
        "ops-table",
        [after("fs/signalfd.c", "	.read		= signalfd_read,\n", "	.flush		= signalfd_flush,\n"),
         before("fs/signalfd.c", "static const struct file_operations signalfd_fops",
                "static int signalfd_flush(struct file *file, fl_owner_t id)\n{\n	cond_resched();\n"
                "	return 0;\n}\n\n")],
        ("fs/signalfd.c", "signalfd_fops points at signalfd_flush instead of nothing"), "Lines concerned:",
    ),
    "an inline function that the compiler made a function of": Case(
        "outlined-inline",
        [Edit("fs/udf/balloc.c", "	if (!bitmap->s_block_bitmap[slot])\n		return -EIO;",
              "	if (!bitmap->s_block_bitmap[slot])\n		return -EFSCORRUPTED;")],
        ("fs/udf/balloc.c", "load_block_bitmap"), "+		return -EFSCORRUPTED;",
    ),
    "code that instrumentation must not reach": Case(
        "no-function-entry",
        [Edit("arch/x86/entry/common.c", "!do_syscall_x32(regs, nr) && nr != -1) {",
              "!do_syscall_x32(regs, nr) && nr != -1 && nr != -2) {")],
        ("arch/x86/entry/common.c", "do_syscall_64 in", "noinstr"),
    ),
    "a system call whose work is a function of its own": Case(
        "outlined-inline",
        [Edit("kernel/sys.c", "	struct new_utsname tmp;\n\n	down_read(&uts_sem);",
              "	struct new_utsname tmp;\n\n	if (!name)\n		return -EFAULT;\n	down_read(&uts_sem);")],
        ("kernel/sys.c", "__do_sys_newuname"),
    ),
    "a function among others that wait": Case(
        "shared-section",
        [after("kernel/time/timer.c", "signed long __sched schedule_timeout_idle(signed long timeout)\n{\n",
               "	cond_resched();\n")],
        ("kernel/time/timer.c", "schedule_timeout_idle", ".sched.text"), "+	cond_resched();",
    ),
    "another parameter of an exported function": Case(
        "export-type",
        [Edit("fs/fat/inode.c", "void fat_attach(struct inode *inode, loff_t i_pos)\n",
              "void fat_attach(struct inode *inode, u32 i_pos)\n"),
         Edit("fs/fat/fat.h", "extern void fat_attach(struct inode *inode, loff_t i_pos);",
              "extern void fat_attach(struct inode *inode, u32 i_pos);")],
        ("fs/fat/inode.c", "fat_attach"), "+ void fat_attach(struct inode *inode, u32 i_pos)",
    ),
    "a namespace that nobody imports": Case(
        "undefined-symbol",
        [before(VERSION, SHOW, "struct crypto_cipher;\nextern int crypto_cipher_setkey(struct crypto_cipher *tfm,\n"
                               "				const u8 *key, unsigned int keylen);\n"),
         before(VERSION, END, "	if (!m)\n		return crypto_cipher_setkey(NULL, NULL, 0);\n")],
        ("crypto_cipher_setkey", "CRYPTO_INTERNAL"), "MODULE_IMPORT_NS(CRYPTO_INTERNAL);",
    ),
}  # fmt: skip
