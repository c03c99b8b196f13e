# SPDX-License-Identifier: GPL-2.0-or-later
# System calls on files below a directory: DIRECTORY. Names, links, sizes, holes, attributes, locks, maps, watches,
# directories with many entries, errors.
my $at = $ARGV[0];
chdir $at or exit 1;
mkdir "many";
for my $n (1 .. 200) { open($f, ">", "many/file-with-a-name-of-some-length-$n") and syswrite($f, "x" x ($n * 7)); }
opendir($d, "many") and my @names = readdir $d;
open(my $f, "+>", "file") or exit 0;
my $fd = fileno $f;
syswrite($f, "d" x 70000) for 1 .. 4;
sysseek($f, 8 << 20, 0);
syswrite($f, "end");
syscall(285, $fd, $_, 4096, 65536) for 0, 1, 3, 16, 8, 32;          # fallocate: keep size, hole, zero, collapse, insert
syscall(8, $fd, 0, $_) for 3, 4;                                     # lseek: data, hole
syscall(17, $fd, my $in = "\0" x 65536, 65536, 1000);                # pread64
syscall(18, $fd, my $out = "p" x 9000, 9000, 500);                   # pwrite64
my $part = pack("P Q", $out, 9000) x 1;
syscall(296, $fd, $part, 1, 100, 0, 0) for 1;                        # pwritev
syscall(327, $fd, $part, 1, 0, 0, $_) for 0, 8;                      # preadv2
syscall(74, $fd);                                                    # fsync
syscall(75, $fd);
syscall(277, $fd, 0, 100000, 7);                                     # sync_file_range
syscall(221, $fd, 0, 0, $_) for 0 .. 5;                              # fadvise64
my $map = syscall(9, 0, 65536, 3, 1, $fd, 0);
syscall(26, $map, 65536, 4) if $map > 0;                             # msync
my $bytes = "mapped"; my $from = pack("P Q", $bytes, 6); my $to = pack("Q Q", $map, 6);
syscall(311, $$ + 0, $from, 1, $to, 1, 0) if $map > 0;
syscall(26, $map, 65536, 4) if $map > 0;
syscall(11, $map, 65536) if $map > 0;
truncate($f, 5000);
truncate($f, 100000);
for my $name ("user.a", "security.b", "trusted.c", "system.posix_acl_access") {
    my ($p, $n, $v) = ("file\0", "$name\0", $name =~ /acl/ ? pack("L SSL SSL SSL", 2, 1, 6, ~0 & 0xffffffff, 4, 4, 0xffffffff, 32, 4, 0xffffffff) : "v" x 40);
    syscall(188, $p, $n, $v, length $v, 0);
    syscall(191, $p, $n, my $got = "\0" x 100, 100);
    syscall(194, $p, my $list = "\0" x 1000, 1000);
    syscall(188, $p, $n, my $long = "w" x 3000, 3000, 2);
    syscall(197, $p, $n);
}
link("file", "hard");
symlink("file", "soft");
symlink("x" x 200, "long");
readlink "soft";
mkdir "dir";
rename("hard", "dir/hard");
my ($a, $b) = ("file\0", "dir/hard\0");
syscall(316, -100, $a, -100, $b, $_) for 1, 2, 4;                    # renameat2: no replace, exchange, whiteout
chmod 0640, "file"; chown 1, 1, "file"; utime 1, 1, "file";
syscall(332, -100, $a, 0, 0xfff, my $statx = "\0" x 256);
syscall(138, $fd, my $statfs = "\0" x 120);
syscall(73, $fd, $_) for 1, 2, 8;                                    # flock
for my $kind (0, 1, 2) { my $lock = pack("s s l! l! i", $kind, 0, 0, 100, 0); fcntl($f, 6, $lock); fcntl($f, 5, $lock); }
fcntl($f, 1024, $_) for 0, 1, 2;                                     # lease
syscall(16, $fd, $_, my $word = "\0" x 128) for 0x80086601, 0x801c581f, 0x80087601, 0xc020660b, 0x5879 + 0xc0185800 - 0x5800, 0x6609, 1;
my $fiemap = pack("Q Q L L L L", 0, ~0, 1, 0, 8, 0) . "\0" x 448;
syscall(16, $fd, 0xc020660b, $fiemap);
open(my $g, "+>", "copy");
syscall(326, $fd, 0, fileno $g, 0, 5000, 0);                         # copy_file_range
syscall(16, fileno $g, 0x40049409, $fd);                             # FICLONE
syscall(40, fileno $g, $fd, 0, 5000);                                # sendfile
pipe(my $r, my $w);
syscall(275, $fd, 0, fileno $w, 0, 4096, 0);                         # splice
syscall(275, fileno $r, 0, fileno $g, 0, 4096, 2);                # without waiting
sysopen(my $direct, "file", 0x4002);
if ($direct) { my $page = syscall(9, 0, 4096, 3, 0x22, -1, 0); syscall(0, fileno $direct, $page, 4096); syscall(1, fileno $direct, $page, 4096); }
sysopen($nameless, ".", 0x410002, 0600) and syswrite($nameless, "n" x 5000);
my $watch = syscall(294, 0);
syscall(254, $watch, my $dot = ".\0", 0xfff);
my $fan = syscall(300, 0x0c, 0);
syscall(301, $fan, 1, 0x3b, -100, $dot) if $fan >= 0;
open($new, ">", "watched") and syswrite($new, "w") and close $new;
sysread(STDIN, my $nothing, 0);
if (fork == 0) { open($h, ">>", "file") and syswrite($h, "a" x 3000); syscall(60, 0); }
wait;
my $ring = syscall(206, 16, my $context = "\0" x 8);                 # io_setup
if ($ring == 0) {
    my $buffer = "\0" x 4096;
    my $iocb = pack("Q L L S s L P Q q Q L L", 7, 0, 0, 0, 0, $fd, $buffer, 4096, 0, 0, 0, 0);
    syscall(209, unpack("Q", $context), 1, my $list = pack("P", $iocb));
    syscall(208, unpack("Q", $context), 1, 1, my $events = "\0" x 64, 0);
    syscall(207, unpack("Q", $context));
}
for my $wrong ("nosuch/file", "file/below", "x" x 300, "") { open(my $no, "<", $wrong); mkdir $wrong; unlink $wrong; rmdir $wrong; }
rmdir "many";
system("mknod pipe p; mknod device c 1 3; cat device; rm -f pipe device") == 0;
unlink "soft", "long", "copy", "watched";
system("rm -f many/*1*");
syscall(162);
system("rm -rf many");
exit 0;
