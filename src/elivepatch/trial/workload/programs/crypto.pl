# SPDX-License-Identifier: GPL-2.0-or-later
# The kernel's ciphers, digests and generators over AF_ALG sockets: several of each kind, with data in pieces, without a
# key, with a wrong one. The names of the sources come first.
my ($seconds, @sources) = @ARGV;
my %named = map { $_ => 1 } @sources;
sub accepted { # accept(2) without an address: these sockets have none
    my $fd = syscall(288, fileno $_[0], 0, 0, 0);
    return if $fd < 0;
    open(my $handle, "+<&=", $fd) or return;
    return $handle;
}
sub tfm {
    my ($type, $name, $key) = @_;
    socket(my $t, 38, 5, 0) or return;
    bind($t, pack("S a14 L L a64", 38, $type, 0, 0, $name)) or print STDERR "$name: $!; " and return;
    setsockopt($t, 279, 1, "x" x 3) if length $key; # a wrong key
    setsockopt($t, 279, 1, $key) if length $key;
    my $op = accepted($t) or return;
    push @keep, $t;
    return $op;
}
sub message { # sendmsg(2) with control data: operation, initialisation vector, length of the associated data
    my ($op, $data, $way, $iv, $assoc, $flags) = @_;
    my $control = pack("Q L L L x4", 20, 279, 3, $way);
    $control .= pack("Q L L L a*", 20 + length $iv, 279, 2, length $iv, $iv) . "\0" x ((4 - length $iv) % 8) if length $iv;
    $control .= pack("Q L L L x4", 20, 279, 4, $assoc) if $assoc;
    my $part = pack("P Q", $data, length $data);
    my $header = pack("Q Q P Q P Q L x4", 0, 0, $part, 1, $control, length $control, 0);
    return syscall(46, fileno $op, $header, $flags + 0);
}
for my $cipher (["cbc(aes)", 16, 16], ["ctr(aes)", 16, 16], ["xts(aes)", 32, 16], ["ecb(aes)", 32, 0], ["lrw(aes)", 32, 16],
    ["cts(cbc(aes))", 16, 16], ["cfb(aes)", 16, 16], ["cbc(des3_ede)", 24, 8], ["chacha20", 32, 16], ["adiantum(xchacha12,aes)", 32, 32],
    ["essiv(cbc(aes),sha256)", 16, 16], ["cbc(camellia)", 16, 16], ["cbc(serpent)", 16, 16], ["cbc(twofish)", 16, 16]) {
    my ($name, $key, $iv) = @$cipher;
    my $op = tfm("skcipher", $name, join "", map { chr($_ * 7 % 251) } 1 .. $key) or next;
    for my $way (1, 0) {
        message($op, "d" x 4096, $way, "i" x $iv, 0, 0);
        sysread($op, my $out, 4096);
        message($op, "d" x 1024, $way, "i" x $iv, 0, 0x8000);
        message($op, "d" x 1024, $way, "", 0, 0);
        sysread($op, $out, 1024);
        sysread($op, $out, 1024);
    }
}
for my $name (qw(md5 sha1 sha256 sha512 sha3-256 sm3 wp512 rmd160 blake2b-256 crc32c crc32 xxhash64 hmac(sha256) cmac(aes) xcbc(aes) vmac64(aes) ghash streebog256)) {
    my $op = tfm("hash", $name, $name =~ /hmac|cmac|xcbc|vmac|ghash/ ? "k" x 16 : "") or next;
    send($op, "d" x 1000, 0x8000);
    send($op, "d" x 5000, 0x8000);
    my $copy = accepted($op);
    send($op, "d" x 10, 0);
    sysread($op, my $out, 64);
    sysread($copy, $out, 64) if $copy;
}
for my $aead (["gcm(aes)", 16, 12], ["ccm(aes)", 16, 16], ["rfc4106(gcm(aes))", 20, 8], ["rfc7539(chacha20,poly1305)", 32, 12], ["aegis128", 16, 16]) {
    my ($name, $key, $iv) = @$aead;
    my $op = tfm("aead", $name, "k" x $key) or next;
    for my $way (1, 0) {
        message($op, "d" x (16 + 1024), $way, $iv == 16 && $name =~ /ccm/ ? "\1" . "i" x 15 : "i" x $iv, 16, 0);
        sysread($op, my $out, 16 + 1024 + 16);
    }
}
for my $name (qw(stdrng drbg_nopr_hmac_sha256 drbg_pr_ctr_aes128 jitterentropy_rng ansi_cprng)) {
    my $op = tfm("rng", $name, "") or next;
    sysread($op, my $out, 64);
}
open($listed, "<", "/proc/crypto") and my @all = <$listed>;
exit 0;
