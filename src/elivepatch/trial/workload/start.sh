# SPDX-License-Identifier: GPL-2.0-or-later
# Start of one program of a workload, in the namespaces that guest.sh made: FILE SECONDS ARGUMENT...
case $SPACES in
*-m*)
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys 2>/dev/null # that of this network namespace, if it has one
    mount -t tmpfs -o size=128m tmpfs /tmp
    ;;
esac
ip link set lo up 2>/dev/null
export PATH="/trial/tools:$PATH" XTABLES_LIBDIR=/trial/tools/xtables
renice -n 10 -p $$ # signs of life and the transition come first
file=$1
shift
case $file in
*.pl) exec perl "$file" "$@" ;;
*) exec sh "$file" "$@" ;;
esac
