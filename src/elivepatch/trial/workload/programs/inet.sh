# SPDX-License-Identifier: GPL-2.0-or-later
# IPv4 and IPv6 between two namespaces: echo, fragments, TCP, UDP, neighbours, routes, multicast, lists of all of them.
. ./common.sh
pair || exit 1
for size in 56 4000; do
    pings 10.9.0.2 "$size"
    ping6 -c 2 -i 0.1 -W 1 -s "$size" fd09::2
done
transfer 10.9.0.2
perl ./sockets.pl
for family in -4 -6; do
    ip "$family" route add unreachable "$([ "$family" = -4 ] && echo 10.8.0.0/16 || echo fd08::/16)"
    ip "$family" route add table 77 default dev v0
    ip "$family" rule add pref 77 table 77
    ip "$family" route show table all
    ip "$family" rule show
    ip "$family" neigh show
    ip "$family" maddr show
    ip "$family" route flush table 77
done
ip -6 route get fd09::2
ip route get 10.9.0.2
ip link set v0 mtu 1400
ip tunnel add t0 mode ipip local 10.9.0.1 remote 10.9.0.2
ip link set t0 up
cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/raw /proc/net/route /proc/net/ipv6_route /proc/net/snmp \
    /proc/net/netstat /proc/net/fib_trie /proc/net/igmp >/dev/null
ip link set v0 down
ip link del v0
