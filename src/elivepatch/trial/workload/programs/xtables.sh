# SPDX-License-Identifier: GPL-2.0-or-later
# Netfilter's old tables: for each source, a rule with the match or target of its name, under traffic and connections.
. ./common.sh
shift
pair || exit 1
ipt() { iptables-legacy -w "$@"; }

rule() { # a rule in both directions and in the tables where the extension may be
    for table in filter mangle nat raw; do
        for chain in INPUT OUTPUT PREROUTING POSTROUTING; do
            # A chain that the table does not have, and an extension that may not be there, are refused.
            ipt -t $table -I $chain "$@" 2>/dev/null && rules="$rules $table:$chain"
        done
    done
}

traffic() {
    pings 10.9.0.2
    transfer 10.9.0.2
    perl ./sockets.pl
    ipt -t mangle -L -v -n
    ipt -L -v -n
}

match() {
    case $1 in
    rateest)
        ipt -t mangle -I OUTPUT -j RATEEST --rateest-name r1 --rateest-interval 250ms --rateest-ewmalog 500ms
        rule -m rateest --rateest1 r1 --rateest-gt --rateest-bps1 1bit
        ;;
    cluster) rule -m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 0xdeadbeef ;;
    connmark) rule -m connmark --mark 0 ;;
    connbytes) rule -m connbytes --connbytes 1 --connbytes-dir both --connbytes-mode packets ;;
    connlimit) rule -p tcp -m connlimit --connlimit-above 1 ;;
    conntrack | state) rule -m conntrack --ctstate NEW,ESTABLISHED ;;
    hashlimit) rule -m hashlimit --hashlimit-name h --hashlimit-upto 5/s --hashlimit-mode srcip ;;
    limit) rule -m limit --limit 5/s ;;
    recent) rule -m recent --name r --set && rule -m recent --name r --update --seconds 5 ;;
    string) rule -m string --algo kmp --string GET ;;
    u32) rule -m u32 --u32 '0>>22&0x3C@0>>24=8' ;;
    bpf) rule -m bpf --bytecode '1,6 0 0 65535' ;;
    statistic) rule -m statistic --mode random --probability 0.5 ;;
    time) rule -m time --timestart 00:00 ;;
    quota) rule -m quota --quota 100000 ;;
    owner) rule -m owner --uid-owner 0 ;;
    multiport) rule -p tcp -m multiport --dports 1,5001 ;;
    iprange) rule -m iprange --src-range 10.9.0.1-10.9.0.5 ;;
    length) rule -m length --length 1:2000 ;;
    mark) rule -m mark --mark 0 ;;
    mac) rule -m mac --mac-source 00:11:22:33:44:55 ;;
    physdev) rule -m physdev --physdev-is-bridged ;;
    pkttype) rule -m pkttype --pkt-type unicast ;;
    policy) rule -m policy --dir in --pol none ;;
    realm) rule -m realm --realm 0 ;;
    socket) rule -m socket ;;
    tcpmss) rule -p tcp --syn -m tcpmss --mss 1:9000 ;;
    ttl | hl) rule -m ttl --ttl-gt 1 ;;
    ecn) rule -p tcp -m ecn --ecn-tcp-cwr ;;
    dscp) rule -m dscp --dscp 0 ;;
    helper) rule -m helper --helper ftp ;;
    nfacct) : ;;
    addrtype) rule -m addrtype --src-type LOCAL ;;
    comment) rule -m comment --comment words ;;
    cpu) rule -m cpu --cpu 0 ;;
    devgroup) rule -m devgroup --src-group 0 ;;
    esp) rule -p esp -m esp --espspi 1 ;;
    ipvs) rule -m ipvs --ipvs ;;
    nat) rule -j SNAT --to 10.9.0.1 ;;
    osf) rule -p tcp -m osf --genre Linux ;;
    rpfilter) rule -m rpfilter ;;
    sctp) rule -p sctp -m sctp --dport 5 ;;
    tcpudp) rule -p tcp -m tcp --dport 5001 && rule -p udp -m udp --dport 9009 ;;
    *) rule -m "$1" ;;
    esac
}

target() {
    case $1 in
    CONNMARK | connmark) rule -j CONNMARK --set-mark 1 && rule -j CONNMARK --restore-mark ;;
    MARK | mark) rule -j MARK --set-mark 1 ;;
    DSCP) rule -j DSCP --set-dscp 5 ;;
    TTL | HL) rule -j TTL --ttl-set 60 ;;
    TCPMSS) rule -p tcp --syn -j TCPMSS --set-mss 1000 ;;
    LOG | TRACE) rule -p icmp -m limit --limit 2/s -j "$1" ;; # not more: the console is slow
    AUDIT | NOTRACK | TCPOPTSTRIP | CHECKSUM | MASQUERADE) rule -p tcp -j "$1" ;;
    NFLOG) rule -j NFLOG --nflog-group 5 ;;
    NFQUEUE) rule -j NFQUEUE --queue-num 5 --queue-bypass ;;
    CLASSIFY) rule -j CLASSIFY --set-class 1:1 ;;
    CT) rule -j CT --notrack ;;
    HMARK) rule -j HMARK --hmark-tuple src --hmark-mod 5 --hmark-rnd 1 ;;
    IDLETIMER) rule -j IDLETIMER --timeout 5 --label words ;;
    RATEEST) rule -j RATEEST --rateest-name r2 --rateest-interval 250ms --rateest-ewmalog 500ms ;;
    REDIRECT) rule -p tcp -j REDIRECT --to-ports 5001 ;;
    NETMAP) rule -j NETMAP --to 10.9.0.0/24 ;;
    SECMARK | CONNSECMARK) : ;;
    TEE) rule -j TEE --gateway 10.9.0.2 ;;
    TPROXY) rule -p tcp -j TPROXY --on-port 5001 ;;
    REJECT) rule -p tcp --dport 1 -j REJECT ;;
    ECN) rule -p tcp -j ECN --ecn-tcp-remove ;;
    SYNPROXY) rule -p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460 ;;
    esac
}

ipt -t mangle -S >/dev/null || exit 1
for source in "$@"; do
    rules=
    extension=${source#*_}
    match "$extension"
    target "$extension"
    echo "$source:$rules" >&2
    [ -n "$rules" ] && traffic
    for table in filter mangle nat raw; do ipt -t $table -F; done 2>/dev/null
done >/dev/null
exit 0
