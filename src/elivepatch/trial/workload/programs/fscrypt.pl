# SPDX-License-Identifier: GPL-2.0-or-later
# Encrypted directories of ext4 with policies of both versions, direct and derived keys, with and without the key.
my $image = "/tmp/crypt.img";
open($file, ">", $image) and truncate($file, 24 << 20) and close $file;
system("/trial/tools/mke2fs", "-q", "-F", "-t", "ext4", "-O", "encrypt,^has_journal", $image) == 0 or exit 1;
mkdir "/tmp/crypt";
system("mount", "-o", "loop", $image, "/tmp/crypt") == 0 or exit 1;
my $raw = join "", map { chr($_ * 11 % 251) } 1 .. 64;
my $count = 0;
for my $flags (0, 4, 4, 2) {
    for my $modes ([9, 9], [1, 4]) {
        my $descriptor = pack("Q", $flags == 4 ? 4 : ++$count + 10); # the same key twice, with and without a flag
        my $name = "fscrypt:" . unpack("H*", $descriptor) . "\0";
        my $key = pack("L a64 L", 0, $raw, 64);
        syscall(248, my $type = "logon\0", $name, $key, length $key, -3);
        my $path = "/tmp/crypt/d" . ++$number;
        mkdir $path;
        my $fd = syscall(2, my $p = "$path\0", 0x10000);
        syscall(16, $fd, 0x800c6613, my $policy = pack("C4 a8", 0, @$modes, $flags, $descriptor));
        syscall(16, $fd, 0x400c6615, my $back = "\0" x 12);
        for my $one (1 .. 3) {
            open(my $f, "+>", "$path/file$one") or next;
            syswrite($f, "d" x 5000);
            sysseek($f, 0, 0);
            sysread($f, my $in, 5000);
            close $f;
        }
        symlink("file1", "$path/link");
        mkdir "$path/inner";
        rename("$path/file2", "$path/inner/file2");
        opendir($d, $path) and my @names = readdir $d;
        closedir $d;
        syscall(3, $fd);
    }
}
# Version 2: the key belongs to the file system.
my $fd = syscall(2, my $top = "/tmp/crypt\0", 0x10000);
my $add = pack("L L a32 L L L7", 2, 0, "", 64, 0) . $raw;
$add = pack("L L a32 L x4 x28", 2, 0, "", 64) . $raw if length $add < 80;
if (syscall(16, $fd, 0xc0506617, $add) == 0) {
    my $identifier = substr($add, 8, 16);
    for my $flags (0, 4, 8, 16) {
        my $path = "/tmp/crypt/v$flags";
        mkdir $path;
        my $dir = syscall(2, my $p = "$path\0", 0x10000);
        syscall(16, $dir, 0x800c6613, my $policy = pack("C4 x4 a16", 2, $flags ? (9, 9) : (1, 4), $flags, $identifier));
        open($f, ">", "$path/file") and syswrite($f, "d" x 9000) and close $f;
        syscall(3, $dir);
    }
    syscall(16, $fd, 0xc0806619 + 1, my $status = pack("L L a32 x88", 2, 0, $identifier));
    syscall(16, $fd, 0xc0406618, my $remove = pack("L L a32 x24", 2, 0, $identifier));
}
syscall(3, $fd);
open($drop, ">", "/proc/sys/vm/drop_caches") and syswrite($drop, "3") and close $drop;
system("ls -lR /tmp/crypt >/dev/null; rm -rf /tmp/crypt/*; umount /tmp/crypt");
exit 0;
