# SPDX-License-Identifier: GPL-2.0-or-later
# Images of a kernel for kexec_file_load(2): headers of bzImage and of PE files, with and without a table of signatures.
# None of them is a kernel, so none is ever loaded.
sub image {
    my ($certificates, $signature) = @_;
    my $image = "\0" x 8192;
    substr($image, 0, 2) = "MZ";
    substr($image, 0x3c, 4) = pack("L", 0x80);
    substr($image, 0x1f1, 1) = "\1";
    substr($image, 0x1fe, 2) = pack("S", 0xaa55);
    substr($image, 0x200, 2) = "\xeb\x66";
    substr($image, 0x202, 4) = "HdrS";
    substr($image, 0x206, 2) = pack("S", 0x020f);
    substr($image, 0x211, 1) = "\1";
    substr($image, 0x234, 1) = "\1";
    substr($image, 0x236, 2) = pack("S", 0x6f);
    substr($image, 0x238, 4) = pack("L", 2047);
    substr($image, 0x260, 4) = pack("L", 0x100000);
    substr($image, 0x80, 4) = "PE\0\0";
    substr($image, 0x84, 20) = pack("S S L L L S S", 0x8664, 1, 0, 0, 0, 112 + 8 * 8, 0x206);
    substr($image, 0x98, 2) = pack("S", 0x20b);
    substr($image, 0x98 + 60, 4) = pack("L", 0x400);
    substr($image, 0x98 + 108, 4) = pack("L", 8);
    substr($image, 0x98 + 112 + 32, 8) = pack("LL", 4096, 4096) if $certificates;
    substr($image, 4096, 8 + length $signature) = pack("L S S", 8 + length $signature, 0x0200, 2) . $signature if $certificates;
    return $image;
}
for my $content (image(0, ""), image(1, "x" x 4088), image(1, "\x30\x82\x0f\xe0\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02" . "x" x 4000), "MZ" . "\0" x 100, "x" x 5000) {
    open(my $file, "+>", "/tmp/image");
    syswrite($file, $content);
    close $file;
    open($file, "<", "/tmp/image");
    my $words = "console=ttyS0\0";
    syscall(320, fileno($file), -1, length $words, $words, 4);
    syscall(320, fileno($file), -1, length $words, $words, 6);
}
syscall(320, -1, -1, 0, 0, 1); # unload
exit 0;
