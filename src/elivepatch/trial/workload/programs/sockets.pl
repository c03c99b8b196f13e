# SPDX-License-Identifier: GPL-2.0-or-later
# Sockets of each family and kind: options, datagrams larger than the link's frames, corking, errors, shutdown.
for my $family (2, 10, 1) {
    for my $kind (1, 2, 3, 5) {
        for my $protocol (0, 1, 58) {
            next if $kind != 3 && $protocol;
            socket(my $s, $family, $kind, $protocol) or next;
            setsockopt($s, 1, $_, pack("i", 1)) for 2, 4, 7, 8, 9, 10, 15, 20, 29, 37;
            setsockopt($s, 0, $_, pack("i", 1)) for 1, 2, 8, 10, 11, 12, 13, 14;
            setsockopt($s, 41, $_, pack("i", 1)) for 16, 23, 49, 51, 56, 66, 67;
            setsockopt($s, 6, $_, pack("i", 1)) for 1, 3, 4, 5, 6, 9, 23;
            for my $level (0, 1, 6, 41) { getsockopt($s, $level, $_) for 1 .. 70; }
            getsockname($s);
            getpeername($s);
            shutdown($s, 2);
        }
    }
}
my $lo = pack("S n a4 x8", 2, 9009, pack("C4", 127, 0, 0, 1));
socket($r, 2, 2, 0) && bind($r, $lo);
socket(my $s, 2, 2, 0);
send($s, "x" x $_, 0, $lo) for 1, 1400, 9000, 60000;
setsockopt($s, 17, 1, pack("i", 1)); # UDP_CORK
send($s, "y" x 1200, 0, $lo) for 1 .. 8;
setsockopt($s, 17, 1, pack("i", 0));
for (1 .. 5) { recv($r, my $data, 65536, 0x40); }
send($s, "x" x 9000, 0x8000, $lo); # MSG_MORE
my $lo6 = pack("S n N a16 N", 10, 9010, 0, ("\0" x 15) . "\1", 0);
socket($r6, 10, 2, 0) && bind($r6, $lo6);
socket(my $s6, 10, 2, 0);
send($s6, "x" x $_, 0, $lo6) for 1, 1400, 9000, 60000;
socket($l, 2, 1, 0) && bind($l, $lo) && listen($l, 5);
for my $abort (0, 1) {
    socket(my $c, 2, 1, 0);
    setsockopt($c, 1, 13, pack("ii", 1, 0)) if $abort;
    connect($c, $lo);
    accept(my $a, $l);
    send($c, "x" x 100000, 0x40);
    send($c, "u", 0x41); # urgent data
    recv($a, my $data, 100000, 0x40);
    close($c);
    close($a);
}
exit 0;
