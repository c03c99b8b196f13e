# SPDX-License-Identifier: GPL-2.0-or-later
# Disks that QEMU emulates, and those in memory: reading, writing, sizes, files of sysfs, unbinding and binding the driver.
usleep 300000
for disk in /sys/block/*; do
    name=${disk##*/}
    case $name in loop* | fd*) continue ;; esac
    [ "$name" != zram0 ] || echo 8M >"$disk/disksize"
    dd if="/dev/$name" of=/dev/null bs=65536 count=64 2>/dev/null
    dd if=/dev/zero of="/dev/$name" bs=65536 count=32 conv=fsync 2>/dev/null
    dd if="/dev/$name" of=/dev/null bs=4096 count=16 skip=64 iflag=direct 2>/dev/null
    blkdiscard -l 65536 "/dev/$name" 2>/dev/null
    blockdev --getsize64 "/dev/$name" >/dev/null
    blockdev --rereadpt "/dev/$name" 2>/dev/null
    blockdev --flushbufs "/dev/$name"
    find "$disk/" -maxdepth 2 -type f -perm -400 -exec cat {} + >/dev/null 2>&1
    [ "$name" != zram0 ] || echo 1 >"$disk/reset"
done
cat /proc/diskstats /proc/partitions /proc/scsi/scsi >/dev/null 2>&1
for driver in virtio_blk virtio_scsi; do
    for device in /sys/bus/virtio/drivers/$driver/virtio*; do
        [ -e "$device" ] || continue
        echo "${device##*/}" >"/sys/bus/virtio/drivers/$driver/unbind"
        echo "${device##*/}" >"/sys/bus/virtio/drivers/$driver/bind"
    done
done
exit 0
