# SPDX-License-Identifier: GPL-2.0-or-later
# IPv4 and IPv6 between two namespaces: echo, fragments, TCP, UDP, neighbours, routes, multicast, lists of all of them.
. ./common.sh
pair || exit 1
for size in 56 4000; do
    pings 10.9.0.2 "$size"
    ping6 -c 2 -i 0.1 -W 1 -s "$size" fd09::2
done
perl ./sockets.pl
transfer 10.9.0.2
for family in 4 6; do
    [ "$family" = 4 ] && net=10.8.0.0/16 at=10.9.0.2 || net=fd08::/16 at=fd09::2
    ip -force -"$family" -batch - <<LINES
route add unreachable $net
route add table 77 default dev v0
rule add pref 77 table 77
route show table all
rule show
neigh show
maddr show
addr show
route get $at
route flush table 77
rule del pref 77
LINES
done
ip -force -batch - <<LINES
link set v0 mtu 1400
tunnel add t0 mode ipip local 10.9.0.1 remote 10.9.0.2
link set t0 up
link set v0 down
link set v0 up
link del v0
LINES
cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/raw /proc/net/route /proc/net/ipv6_route /proc/net/snmp \
    /proc/net/netstat /proc/net/fib_trie /proc/net/igmp >/dev/null
exit 0
