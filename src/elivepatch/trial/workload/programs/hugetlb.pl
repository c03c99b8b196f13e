# SPDX-License-Identifier: GPL-2.0-or-later
# Huge pages: private and shared mappings, fork with copies on write, reservations with holes, a file of hugetlbfs,
# truncation, a limit that is reached.
open(my $n, ">", "/proc/sys/vm/nr_hugepages") or exit 1;
syswrite($n, "16");
my $size = 2 << 20;
sub map_pages { my ($pages, $flags, $fd, $offset) = @_; return syscall(9, 0, $pages * $size, 3, $flags, $fd, $offset); }
sub fill { # process_vm_writev(2) writes to an address of this process
    my ($at, $pages) = @_;
    for my $page (0 .. $pages - 1) {
        my $data = "huge";
        my $from = pack("P Q", $data, 4);
        my $to = pack("Q Q", $at + $page * $size, 4);
        syscall(311, $$ + 0, $from, 1, $to, 1, 0); # `$$` alone would be taken for a text
    }
}
my $private = map_pages(4, 0x40022, -1, 0);
my $shared = map_pages(2, 0x40021, -1, 0);
fill($private, 4);
fill($shared, 2);
for (1, 2) {
    my $child = fork;
    if (!$child) { fill($private, 2); syscall(60, 0); }
    fill($private, 1);
    waitpid $child, 0;
}
syscall(28, $private, $size, 4);        # madvise: not needed
syscall(25, $private, 4 * $size, 2 * $size, 1);
syscall(10, $private, $size, 1);        # mprotect
syscall(11, $private, 2 * $size);
mkdir "/tmp/huge";
system("mount", "-t", "hugetlbfs", "-o", "pagesize=2M,size=24M", "hugetlbfs", "/tmp/huge");
if (open(my $file, "+>", "/tmp/huge/file")) {
    my $fd = fileno $file;
    syscall(77, $fd, 10 * $size);
    # Reservations of single pages first: the one over all then has to close each gap between them.
    for my $page (1, 3, 5, 7) {
        my $at = map_pages(1, 1, $fd, $page * $size);
        syscall(11, $at, $size) if $at > 0;
    }
    my $all = map_pages(10, 1, $fd, 0);
    fill($all, 6);
    my $child = fork;
    if (!$child) { fill($all, 2); syscall(60, 0); }
    waitpid $child, 0;
    syscall(285, $fd, 3, 2 * $size, 2 * $size); # a hole
    syscall(285, $fd, 0, 0, 8 * $size);
    my $more = map_pages(10, 2, $fd, 0);
    fill($more, 3);
    syscall(11, $more, 10 * $size) if $more > 0;
    syscall(11, $all, 10 * $size) if $all > 0;
    syscall(77, $fd, $size);
    close $file;
}
map_pages(4000, 0x40022, -1, 0); # more than there are
my $segment = syscall(29, 0, 2 * $size, 0x980 | 04000); # shmget with SHM_HUGETLB
if ($segment >= 0) { my $at = syscall(30, $segment, 0, 0); fill($at, 2); syscall(67, $at); syscall(31, $segment, 0, 0); }
system("cat /proc/meminfo /proc/self/smaps /proc/self/numa_maps >/dev/null 2>&1");
unlink "/tmp/huge/file";
system("umount", "/tmp/huge");
syswrite($n, "0");
exit 0;
