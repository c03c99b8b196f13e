# SPDX-License-Identifier: GPL-2.0-or-later
# Terminals: pseudo terminals in canonical and raw mode, sizes, line disciplines, job control, hang-up, locks.
for my $round (1 .. 4) {
    my $master = syscall(2, my $p = "/dev/ptmx\0", 2);
    last if $master < 0;
    syscall(16, $master, 0x40045431, my $unlock = pack("i", 0));
    syscall(16, $master, 0x80045430, my $number = pack("I", 0));
    my $slave = syscall(2, my $path = "/dev/pts/" . unpack("I", $number) . "\0", 2 | 0x100);
    $slave = syscall(16, $master, 0x5441, 0x102) if $slave < 0;
    for my $request (0x5401, 0x5405, 0x5413, 0x540f, 0x5410, 0x5429, 0x541b, 0x5411, 0x5424, 0x802c542a, 0x5457, 0x80045432) {
        syscall(16, $slave, $request, my $z = "\0" x 128);
    }
    my $termios = "\0" x 60;
    syscall(16, $slave, 0x5401, $termios);
    for my $flags (0x8a3b, 0, 0x0002, 0x8a3b | 0x10000) {
        substr($termios, 12, 4) = pack("L", $flags);
        syscall(16, $slave, $_, $termios) for 0x5402, 0x5403, 0x5404;
        for my $text ("line\n", "erased\x7f\x15word \x17\n", "\x04", "\xc3\xa9\x7f", "x" x 5000, "\x11\x13\x11") {
            syscall(1, $master, $text, length $text);
            syscall(16, $slave, 0x541b, my $ready = pack("i", 0));
            syscall(0, $slave, my $in = "\0" x 4096, 4096) if unpack("i", $ready) > 0;
            syscall(1, $slave, $text, 100);
            syscall(16, $master, 0x541b, $ready = pack("i", 0));
            syscall(0, $master, my $out = "\0" x 4096, 4096) if unpack("i", $ready) > 0;
        }
        syscall(16, $slave, 0x540b, $_) for 0, 1, 2;
        syscall(16, $slave, 0x540a, $_) for 0, 1;
        syscall(16, $slave, 0x5414, my $size = pack("S4", 24 + $round, 80, 0, 0));
    }
    syscall(16, $slave, 0x5423, my $discipline = pack("i", $_)) for 2, 3, 15, 21, 27, 0;
    syscall(16, $master, 0x5420, my $packet = pack("i", 1));
    my $child = fork;
    if (!$child) { syscall(112); syscall(16, $slave, 0x540e, 0); syscall(16, $slave, 0x5410, my $g = pack("i", $$)); syscall(16, $slave, 0x5412, my $c = "c"); syscall(16, $slave, 0x5437, 0); syscall(60, 0); }
    waitpid $child, 0;
    syscall(1, $master, my $interrupt = "\x03", 1);
    syscall(3, $round % 2 ? $master : $slave);
    syscall(3, $round % 2 ? $slave : $master);
}
exit 0;
