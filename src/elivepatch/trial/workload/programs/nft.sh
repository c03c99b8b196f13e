# SPDX-License-Identifier: GPL-2.0-or-later
# nf_tables and connection tracking: a table with sets, maps, counters, limits, address translation, under traffic.
. ./common.sh
pair || exit 1
nft -f - <<'RULES'
table inet t {
    set s { type ipv4_addr; flags timeout, dynamic; timeout 1s; }
    set i { type ipv4_addr; flags interval; elements = { 10.9.0.0/25, 192.0.2.1-192.0.2.9 }; }
    map m { type inet_service : verdict; elements = { 5001 : accept, 9009 : accept }; }
    counter c { }
    chain other { counter return; }
    chain in { type filter hook input priority 0; ip saddr @i counter name c; tcp dport vmap @m; jump other; }
    chain out {
        type filter hook output priority 0
        add @s { ip daddr }
        limit rate 100/second counter accept
        ct state new ct mark set 1 meta mark set 2
    }
}
RULES
nft add table ip n
nft 'add chain ip n post { type nat hook postrouting priority 100; }'
nft add rule ip n post ip daddr 10.9.0.2 masquerade
for expression in 'ip ttl 64' 'meta length 1-2000' 'numgen random mod 2 0' 'jhash ip saddr mod 2 0' 'fib saddr type local' \
    'ct count over 10' 'quota over 100 mbytes' 'tcp option maxseg size 1460' 'socket transparent 1' 'rt classid 5' \
    'limit rate 2/second log prefix "x"' 'reject' 'notrack' 'queue num 5 bypass' 'osf name "Linux"' 'tcp flags syn' 'exthdr frag exists' ; do
    nft add rule inet t other "$expression" 2>/dev/null
    nft insert rule inet t out "$expression" counter 2>/dev/null
done
nft -a list ruleset
pings 10.9.0.2
transfer 10.9.0.2
perl ./sockets.pl
nft add element inet t s '{ 10.9.0.7 timeout 100ms }'
nft delete element inet t i '{ 10.9.0.0/25 }'
nft add element inet t i '{ 10.9.0.0/24 }'
nft reset counters
nft list set inet t s
nft delete rule inet t nosuch handle 99
usleep 300000
pings 10.9.0.2
cat /proc/net/nf_conntrack
nft flush chain inet t other
nft delete table ip n
nft flush ruleset
exit 0
