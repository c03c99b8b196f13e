# SPDX-License-Identifier: GPL-2.0-or-later
# Network adapters that QEMU emulates, on one hub: frames between each two, settings, statistics, up and down.
. ./common.sh
number=0
# They are in the first network namespace; the links of this one have no hardware.
for device in /proc/1/root/sys/class/net/*; do
    name=${device##*/}
    case $name in lo | *[!a-z0-9]*) continue ;; esac
    number=$((number + 1))
    names="$names $name"
done
nsenter -t 1 -n sh -s "$number" <<LINES
for name in $names; do
    count=\$((count + 1))
    /trial/tools/ip link set \$name up
    /trial/tools/ip addr add 10.9.\$count.1/24 dev \$name
    /trial/tools/ip link set \$name mtu 1400
    ping -c 2 -W 1 -I \$name 10.9.\$count.2
    /trial/tools/ip link set \$name promisc on
    /trial/tools/ip link set \$name allmulticast on
    /trial/tools/ip -s link show \$name
    cat /sys/class/net/\$name/statistics/* /sys/class/net/\$name/* >/dev/null 2>&1
    /trial/tools/ip addr flush dev \$name
    /trial/tools/ip link set \$name down
done
LINES
exit 0
