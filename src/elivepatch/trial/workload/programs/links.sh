# SPDX-License-Identifier: GPL-2.0-or-later
# Links without hardware on one end of a pair: each kind, up, with traffic over it where it has a way, and away again.
. ./common.sh
pair || exit 1
ip -force -batch - <<LINES
link add b0 type bridge vlan_filtering 1 stp_state 1
link add d0 type dummy
link set d0 master b0
link set d0 up
link set b0 up
addr add 10.10.0.1/24 dev b0
link add link v0 name v0.5 type vlan id 5
link set v0.5 up
link add link v0 name m0 type macvlan mode bridge
link set m0 up
link add link v0 name t0 type macvtap
link add x0 type vxlan id 7 remote 10.9.0.2 dstport 4789
link set x0 up
addr add 10.11.0.1/24 dev x0
link add g0 type geneve id 7 remote 10.9.0.2
link set g0 up
link add bond0 type bond mode active-backup miimon 10
link add d1 type dummy
link set d1 master bond0
link set bond0 up
link add team0 type team
link add i0 type ifb
link set i0 up
link add r0 type vrf table 10
link set r0 up
link add n0 type nlmon
link set n0 up
link add link v0 name s0 type macsec
link set s0 up
link add gre1 type gre local 10.9.0.1 remote 10.9.0.2 key 5
link set gre1 up
addr add 10.12.0.1/24 dev gre1
link add gre2 type ip6gre local fd09::1 remote fd09::2
link set gre2 up
link add tap1 type gretap local 10.9.0.1 remote 10.9.0.2
link set tap1 up
link add wg0 type wireguard
tuntap add dev tun0 mode tun
tuntap add dev tap0 mode tap
link set tun0 up
LINES
for at in 10.9.0.2 10.10.0.2 10.11.0.2 10.12.0.2; do ping -c 1 -W 1 "$at"; done
ip -s -d link show
bridge=/sys/class/net/b0/bridge
cat /proc/net/vlan/* $bridge/* /proc/net/bonding/* >/dev/null 2>&1
ip -force -batch - <<LINES
link set d0 nomaster
link del b0
link del x0
link del bond0
link del v0
LINES
exit 0
