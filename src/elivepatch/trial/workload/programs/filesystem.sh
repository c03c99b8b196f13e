# SPDX-License-Identifier: GPL-2.0-or-later
# A file system on a loop device, or one without a device: TYPE, then the names of the sources. It makes, fills, checks,
# remounts and unmounts it, and does the same calls as files.pl does on any file system.
. ./common.sh
type=$2
at=/tmp/mounted
mkdir -p "$at"
image=/tmp/image
sparse() { # MIB
    rm -f "$image"
    truncate -s "$(($1 << 20))" "$image"
}
options=
case $type in
ext4)
    sparse 48 && mke2fs -q -F -t ext4 -I 256 \
        -O has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,ext_attr,dir_index,inline_data "$image"
    options=,discard
    ;;
ext2) sparse 24 && mke2fs -q -F -t ext2 "$image" ;;
xfs) sparse 320 && mkfs.xfs -q -f "$image" ;;
btrfs) sparse 128 && mkfs.btrfs -q -f "$image" ;;
f2fs) sparse 64 && mkfs.f2fs -q -f "$image" ;;
vfat) sparse 16 && mkdosfs "$image" ;;
minix) sparse 16 && mkfs.minix "$image" ;;
overlay) mkdir -p /tmp/low /tmp/up /tmp/work && echo low >/tmp/low/file && mkdir /tmp/low/dir ;;
esac >/dev/null 2>&1
case $type in
overlay) mount -t overlay -o lowerdir=/tmp/low,upperdir=/tmp/up,workdir=/tmp/work overlay "$at" ;;
tmpfs | ramfs | proc | sysfs | debugfs | configfs | devpts | mqueue | securityfs | hugetlbfs | tracefs | pstore | bpf)
    mount -t "$type" "$type" "$at"
    ;;
*) mount -t "$type" -o "loop$options" "$image" "$at" ;;
esac || exit 1
case $type in
proc)
    for _ in 1 2; do
        for file in "$at"/[a-z]* "$at/self"/* "$at/1"/* "$at"/sys/*/* "$at"/self/net/* "$at"/sys/fs/*/* "$at"/tty/* "$at"/irq/*/*; do
            # These wait, have no end or change something.
            case $file in */kmsg | */kcore | */kpagecgroup | */kpagecount | */kpageflags | */pagemap | */mem | */clear_refs | */sysrq-trigger | */task) continue ;; esac
            [ -f "$file" ] && head -c 20000 "$file" >/dev/null 2>&1
        done
    done
    ls -lR "$at/self/fd" "$at/self/task" "$at/self/ns" "$at/1/fdinfo" >/dev/null 2>&1
    ;;
sysfs | debugfs | tracefs | securityfs | configfs)
    find "$at" -maxdepth 5 -type f -perm -400 ! -name 'trace_pipe*' ! -path '*/trace_pipe*' ! -path '*pci*/rom' \
        ! -path '*kprobe*' 2>/dev/null | head -n 1500 | while read -r file; do head -c 4096 "$file" >/dev/null; done 2>/dev/null &
    usleep 1500000
    kill $! 2>/dev/null
    ;;
*) perl ./files.pl "$at" ;;
esac
mount -o remount,ro "$at" 2>/dev/null && mount -o remount,rw "$at" 2>/dev/null
sync
df "$at" >/dev/null
echo 3 >/proc/sys/vm/drop_caches
ls -lR "$at" 2>/dev/null | head -n 200 >/dev/null
umount "$at" || umount -l "$at"
exit 0
