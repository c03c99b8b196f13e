# SPDX-License-Identifier: GPL-2.0-or-later
# System calls of the kernel's core: processes, signals, timers, clocks, scheduling, futexes, keys, messages,
# semaphores, shared memory, memory maps, name spaces, users, limits, events, tracing, perf, seccomp, time.
$| = 1;
my $z = "\0" x 4096;
for my $n (1 .. 8) {
    my $child = fork;
    if (!$child) { syscall(157, $_, $n, 0, 0, 0) for 1 .. 60; syscall(60, $n); }
    syscall(144, $child, $n % 3, my $p = pack("L", 0));
    syscall(203, $child, 8, my $mask = pack("Q", 1 + $n % 2));
    syscall(434, $child, 0);
    syscall(247, 1, $child, my $info = $z, 4 | 0x01000000, my $usage = $z) if $n % 2;
    waitpid $child, 0;
}
for my $class (0 .. 6) { syscall(314, 0, my $a = pack("L L Q l L Q Q Q L L", 56, $class, 0, $class ? 0 : 5, 0, 1000000, 10000000, 10000000, 0, 0), 0); syscall(315, 0, my $b = $z, 56, 0); }
syscall(144, 0, 0, my $normal = pack("L", 0));
for my $clock (0 .. 11) {
    syscall(228, $clock, my $t = $z);
    syscall(229, $clock, $t);
    syscall(230, $clock, 0, my $nap = pack("q q", 0, 1000000), $z);
    next if syscall(222, $clock, 0, my $id = pack("L", 0));
    syscall(223, unpack("L", $id), 0, my $set = pack("q4", 0, 1000000, 0, 1000000), $z);
    syscall(224, unpack("L", $id), $z);
    syscall(226, unpack("L", $id));
}
local $SIG{ALRM} = sub { };
local $SIG{USR1} = sub { };
syscall(38, $_, my $it = pack("q4", 0, 0, 0, 2000), $z) for 0 .. 2;
select(undef, undef, undef, 0.02);
kill "USR1", $$;
syscall(14, 0, my $set = pack("Q", 1 << 40), $z, 8);
syscall(127, my $pending = $z, 8);
syscall(297, $$ + 0, $$ + 0, 40, my $siginfo = pack("i i i x116", 40, 0, -1));
syscall(128, $set, my $got = $z, my $none = pack("q q", 0, 1000), 8);
my $futex = pack("L", 5);
for my $operation (0 .. 12) { syscall(202, $futex, $operation | $_, 5, my $soon = pack("q q", 0, 100000), $futex, 1) for 0, 128; }
for my $kind ("user", "logon", "keyring", "big_key") {
    my $key = syscall(248, my $t = "$kind\0", my $n = "e:$kind\0", my $v = $kind eq "keyring" ? 0 : "v" x 100, $kind eq "keyring" ? 0 : 100, -2);
    next if $key < 0;
    syscall(250, $_, $key, $z, 4000, 0, 0) for 1, 6, 11, 12, 3, 20, 31;
    syscall(250, $_, $key, 0x3f3f0000, 0) for 4, 5, 15;
    syscall(249, my $again = "$kind\0", my $name = "e:$kind\0", 0, -2);
    syscall(250, 10, -2, my $search = "$kind\0", my $of = "e:$kind\0", 0);
    syscall(250, $_, $key, -2) for 9, 21;
}
syscall(250, $_, $z, 4000) for 26, 0;
system("cat /proc/keys /proc/key-users >/dev/null");
my $q = syscall(68, 0, 0x380); syscall(69, $q, my $m = pack("Q a64", 1, "m"), 64, 0); syscall(70, $q, my $r = $z, 64, 0, 0); syscall(71, $q, $_, my $ds = $z) for 2, 3, 11, 12, 13, 0;
my $s = syscall(64, 0, 3, 0x380); syscall(65, $s, my $ops = pack("S s s S s s", 0, 1, 0x1000, 0, -1, 0), 2); syscall(66, $s, 0, $_, my $x = $z) for 2, 18, 19, 12, 13, 14, 15, 3, 11, 17, 0;
my $h = syscall(29, 0, 65536, 0x380); my $at = syscall(30, $h, 0, 0); syscall(31, $h, $_, my $y = $z) for 2, 11, 12, 13, 14, 15; syscall(67, $at); syscall(31, $h, 0, 0);
my $mq = syscall(240, my $mqname = "e\0", 0x42, 0600, 0); syscall(242, $mq, my $letter = "m", 1, 1, 0); syscall(243, $mq, my $mm = $z, 8192, 0, 0); syscall(245, $mq, 0, $z); syscall(241, my $mqn = "e\0");
my $map = syscall(9, 0, 1 << 20, 3, 0x22, -1, 0);
for my $part (0 .. 15) { my $w = "w"; my $f = pack("P Q", $w, 1); my $t = pack("Q Q", $map + $part * 65536, 1); syscall(311, $$ + 0, $f, 1, $t, 1, 0); }
syscall(28, $map, 1 << 19, $_) for 0 .. 4, 8, 10 .. 23, 25;
syscall(10, $map + 65536, 4096, $_) for 0, 1, 3, 7;
syscall(149, $map, 65536); syscall(150, $map, 65536); syscall(325, $map, 65536, 1); syscall(151, 1); syscall(152);
syscall(27, $map, 1 << 20, my $core = $z);
syscall(237, $map, 65536, $_, my $nodes = pack("Q", 1), 64, 0) for 0 .. 5;
syscall(238, $_, $nodes, 64) for 0 .. 4; syscall(238, 0, 0, 0);
syscall(239, my $mode = $z, my $n2 = $z, 64, $map, 2);
syscall(256, $$ + 0, 64, $nodes, $nodes); syscall(279, $$ + 0, 1, my $pages = pack("Q", $map), my $to = pack("L", 0), my $st = $z, 2);
my $moved = syscall(25, $map, 1 << 20, 2 << 20, 1); syscall(25, $moved, 2 << 20, 1 << 19, 1); syscall(12, 0);
syscall(216, $moved, 4096, 0, 0, 0);
my $pk = syscall(330, 0, 0); syscall(329, $moved, 4096, 3, $pk) if $pk >= 0; syscall(331, $pk);
syscall(319, my $mem = "m\0", $_) for 0, 1, 2, 3;
my $uffd = syscall(323, 1); syscall(16, $uffd, 0xc018aa3f, my $api = pack("Q3", 0xaa, 0, 0)) if $uffd >= 0;
syscall(332, -100, my $root = "/\0", 0, 0xfff, my $sx = $z); syscall(324, $_, 0, 0) for 0, 1, 2, 16, 8;
for my $flag (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x40000000, 0x20000000, 0x80) { my $c = fork; if (!$c) { syscall(272, $flag); if (!fork) { syscall(60, 0) } wait; syscall(60, 0) } waitpid $c, 0; }
syscall(302, 0, $_, 0, $z) for 0 .. 15; syscall(98, $_, $z) for 0, -1, 1; syscall(99, $z); syscall(63, $z); syscall(100, $z); syscall(204, 0, 128, $z); syscall(309, $z, $z, 0); syscall(318, $z, 64, 0);
syscall(159, $z); syscall(305, 0, $z); syscall(103, $_, $z, 4000) for 2, 3, 9, 10;
my $e = syscall(290, 1, 0x800); my $ep = syscall(291, 0); syscall(233, $ep, 1, $e, my $ev = pack("L Q", 5, 1)); syscall(232, $ep, my $evs = $z, 8, 1); syscall(1, $e, my $one = pack("Q", 1), 8); syscall(0, $e, $z, 8); syscall(233, $ep, 2, $e, 0);
my $tf = syscall(283, 1, 0x800); syscall(286, $tf, 0, my $its = pack("q4", 0, 1000000, 0, 1000000), $z); syscall(287, $tf, $z); select(undef, undef, undef, 0.01); syscall(0, $tf, $z, 8);
my $sf = syscall(289, -1, my $ss = pack("Q", 1 << 11), 8, 0x800);
syscall(7, my $poll = pack("L S S L S S", $e, 1, 0, $tf, 1, 0), 2, 1); syscall(270, 8, $z, $z, $z, my $pt = pack("q q", 0, 1000), 0); syscall(271, $poll, 2, $pt, 0, 0);
pipe(my $rd, my $wr); fcntl($wr, 1031, 65536 * 2); fcntl($wr, 1032, 0); syscall(276, fileno $rd, fileno $wr, 10, 2); syscall(278, fileno $wr, my $iov = pack("P Q", $z, 100), 1, 0);
for my $type (0 .. 5) { for my $config (0 .. 10) { my $p = syscall(298, my $attr = pack("L L Q Q Q Q Q", $type, 128, $config, 10000, 0x7, 0x3, 1) . $z, 0, -1, -1, 0); next if $p < 0; syscall(16, $p, $_, 0) for 0x2400, 0x2403, 0x2401; syscall(0, $p, $z, 64); syscall(3, $p); } }
my $traced = fork; if (!$traced) { syscall(101, 0, 0, 0, 0); kill "STOP", $$; syscall(39) for 1 .. 3; syscall(60, 0); }
waitpid $traced, 0; syscall(101, $_, $traced, 0, my $regs = $z) for 12, 0x4201 - 0x4201 + 14, 0x4202, 0x4200; syscall(101, 24, $traced, 0, 0); waitpid $traced, 0; syscall(101, 1, $traced, 0, 0); syscall(101, 7, $traced, 0, 0); waitpid $traced, 0;
my $jailed = fork; if (!$jailed) { syscall(157, 38, 1, 0, 0, 0); my $filter = pack("S C C L", 6, 0, 0, 0x7fff0000); my $prog = pack("S x6 P", 1, $filter); syscall(317, 1, 0, $prog); syscall(157, 21, 0); syscall(39); syscall(60, 0); } waitpid $jailed, 0;
syscall(425, 8, my $params = $z); syscall(135, -1); syscall(105, 0); syscall(117, 0, 0, 0); syscall(126, my $cap = pack("L L", 0x20080522, 0), $z); syscall(125, my $cap2 = pack("L L", 0x20080522, 0), $z); syscall(116, 2, my $groups = pack("L L", 0, 1)); syscall(112); syscall(124, 0); syscall(121, 0);
open($log, "<", "/proc/self/mountinfo") and my @lines = <$log>;
system("cat /proc/self/sched /proc/schedstat /proc/timer_list /proc/self/status /proc/self/limits /proc/self/maps /proc/self/smaps /proc/self/numa_maps /proc/vmstat /proc/zoneinfo /proc/buddyinfo /proc/pagetypeinfo /proc/slabinfo /proc/modules /proc/interrupts /proc/softirqs /proc/stat /proc/self/ns/* /proc/locks /proc/sysvipc/* >/dev/null 2>&1");
system("echo 1 >/proc/sys/vm/compact_memory; echo 3 >/proc/sys/vm/drop_caches");
exit 0;
