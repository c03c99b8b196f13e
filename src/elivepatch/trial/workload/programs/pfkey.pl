# SPDX-License-Identifier: GPL-2.0-or-later
# Keys of IPsec over a PF_KEY socket (RFC 2367): register, add, get, dump, update, delete and flush associations and
# policies, once as they should be and once malformed.
socket(my $s, 15, 3, 2) or exit 1;
sub send_message {
    my ($type, $satype, $body) = @_;
    my $length = (16 + length $body) / 8;
    send($s, pack("CCCCSSLL", 2, $type, 0, $satype, $length, 0, ++$sequence, $$) . $body, 0);
    for (1 .. 3) { recv($s, my $answer, 65536, 0x40); }
}
sub address { my ($kind, $last) = @_; return pack("SSCCS Sn a4 x8", 3, $kind, 255, 32, 0, 2, 0, pack("C4", 10, 9, 0, $last)); }
sub sa { my ($spi, $auth, $enc) = @_; return pack("SSNCCCCL", 2, 1, $spi, 32, 1, $auth, $enc, 0); }
sub key { my ($kind, $bytes) = @_; my $k = pack("SSSS", 1 + int(($bytes + 7) / 8), $kind, $bytes * 8, 0); return $k . ("k" x (8 * int(($bytes + 7) / 8))); }
my $lifetime = pack("SSLQQQ", 4, 3, 10, 1000000, 3600, 3600);
my $soft = pack("SSLQQQ", 4, 4, 10, 100000, 1800, 1800);
my $pair = address(5, 1) . address(6, 2);
send_message(7, $_, "") for 2, 3, 9; # SADB_REGISTER
for my $round (1, 2) {
    for my $satype (2, 3) {
        my $keys = key(8, 20) . ($satype == 3 ? key(9, 16) : "");
        my $enc = $satype == 3 ? 12 : 0;
        my $spi = 0x1000 * $round + $satype;
        send_message(3, $satype, sa($spi, 3, $enc) . $lifetime . $soft . $pair . $keys); # SADB_ADD
        send_message(3, $satype, sa($spi, 3, $enc) . $pair . $keys);                     # once more: exists
        send_message(3, $satype, sa($spi + 9, 77, $enc) . $pair . $keys);                # no such algorithm
        send_message(3, $satype, sa($spi + 10, 3, $enc) . $pair . key(8, 3));            # key of a wrong length
        send_message(2, $satype, sa($spi, 3, $enc) . $lifetime . $pair . $keys);         # SADB_UPDATE
        send_message(5, $satype, sa($spi, 0, 0) . $pair);                                # SADB_GET
    }
    send_message(1, 3, pack("SSLLL", 2, 16, 0x100, 0x200, 0) . $pair);                   # SADB_GETSPI
    send_message(10, 0, "");                                                             # SADB_DUMP
    my $policy = pack("SSSCCLL", 2, 18, 2, 1 + $round % 2, 0, 0, 0);
    send_message(14, 0, $pair . $policy);                                                # SADB_X_SPDADD
    send_message(18, 0, "");                                                             # SADB_X_SPDDUMP
    send_message(15, 0, $pair . $policy);                                                # SADB_X_SPDDELETE
    send_message(4, 3, sa(0x1000 * $round + 3, 0, 0) . $pair);                           # SADB_DELETE
}
send_message(19, 0, "");
send_message(9, 0, "");
send($s, "short", 0);
exit 0;
