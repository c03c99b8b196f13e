# SPDX-License-Identifier: GPL-2.0-or-later
# BPF: maps of each kind, programs, links, and the bpf file system with pins, directories and symbolic links.
sub bpf { my ($command, $attributes) = @_; $attributes .= "\0" x (144 - length $attributes); my $got = syscall(321, $command, $attributes, 144); return ($got, $attributes); }
mkdir "/tmp/bpf";
system("mount", "-t", "bpf", "-o", "mode=0700", "bpf", "/tmp/bpf");
my @maps;
for my $kind (1 .. 33) {
    my $key = $kind == 11 || $kind == 20 ? 8 : $kind == 22 || $kind == 23 || $kind == 27 ? 0 : 4;
    my ($map) = bpf(0, pack("L5", $kind, $key, $kind == 27 ? 0 : 4, $kind == 27 ? 4096 : 8, $kind == 11 ? 1 : 0));
    next if $map < 0;
    push @maps, $map;
    for my $number (0 .. 3) {
        my ($k, $v) = (pack("LL", $number, 0), pack("LL", $number, 0));
        bpf(2, pack("L x4 P P Q", $map, $k, $v, 0));
        bpf(1, pack("L x4 P P Q", $map, $k, $v, 0));
        bpf(4, pack("L x4 P P", $map, $k, $v));
        bpf(3, pack("L x4 P", $map, $k)) if $number % 2;
    }
    my $path = "/tmp/bpf/map$kind\0";
    bpf(6, pack("P L L", $path, $map, 0));
    bpf(7, pack("P L L", $path, 0, 0));
    bpf(15, pack("L L P", $map, 80, my $info = "\0" x 80));
}
my $licence = "GPL\0";
my $return = pack("C C s l", 0xb7, 0, 0, 1) . pack("C C s l", 0x95, 0, 0, 0);
my $loop = pack("C C s l", 0xb7, 0, 0, 0) . pack("C C s l", 0x07, 0, 0, 1) . pack("C C s l", 0xa5, 0, -2, 50)
    . pack("C C s l", 0x18, 0x11, 0, $maps[0]) . pack("C C s l", 0, 0, 0, 0) . pack("C C s l", 0xb7, 0, 0, 1) . pack("C C s l", 0x95, 0, 0, 0);
my $wrong = pack("C C s l", 0x95, 0, 0, 0);
for my $kind (1 .. 31) {
    for my $code ($return, $loop, $wrong) {
        my $log = "\0" x 4096;
        my ($program) = bpf(5, pack("L L P P L L P L", $kind, length($code) / 8, $code, $licence, 1, 4096, $log, 0));
        next if $program < 0;
        my $path = "/tmp/bpf/program$kind\0";
        bpf(6, pack("P L L", $path, $program, 0));
        bpf(10, pack("L L L L P P L L", $program, 0, 64, 64, my $in = "\0" x 64, my $out = "\0" x 64, 2, 0));
        if ($kind == 1) { socket(my $s, 2, 2, 0); setsockopt($s, 1, 50, pack("i", $program)); }
        syscall(3, $program);
    }
}
mkdir "/tmp/bpf/d";
symlink("/tmp/bpf/map1", "/tmp/bpf/link");
readlink("/tmp/bpf/link");
link("/tmp/bpf/map1", "/tmp/bpf/hard");
rename("/tmp/bpf/map2", "/tmp/bpf/d/map2");
opendir($d, "/tmp/bpf") and my @names = readdir $d;
closedir $d;
system("cat /proc/mounts /tmp/bpf/map1 >/dev/null 2>&1");
system("rm -rf /tmp/bpf/*");
syscall(3, $_) for @maps;
system("umount", "/tmp/bpf");
exit 0;
