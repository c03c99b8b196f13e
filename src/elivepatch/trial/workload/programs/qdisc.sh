# SPDX-License-Identifier: GPL-2.0-or-later
# Traffic control: for each source, the queueing discipline, action, classifier or match of its name under traffic.
. ./common.sh
shift
pair || exit 1

traffic() {
    ping -c 3 -i 0.05 -W 1 10.9.0.2
    ping -c 2 -i 0.05 -W 1 -s 4000 10.9.0.2
    transfer 10.9.0.2
}

classes() { # a discipline with classes, for a filter
    tc qdisc replace dev v0 root handle 1: prio 2>/dev/null || tc qdisc add dev v0 handle ffff: ingress
    parent=1:
    tc qdisc show dev v0 | grep -q 'prio 1:' || parent=ffff:
}

with_action() { # ACTION WORDS...: on what arrives and on what leaves
    tc qdisc add dev v0 clsact 2>/dev/null
    for way in ingress egress; do
        tc filter add dev v0 $way prio 1 protocol all matchall action "$@" ||
            tc filter add dev v0 $way prio 1 protocol ip u32 match u32 0 0 action "$@"
    done
    traffic
    tc -s filter show dev v0 ingress
    tc -s actions list action "$1"
    tc filter replace dev v0 egress prio 1 protocol all matchall action "$@"
    tc qdisc del dev v0 clsact
    tc actions add action "$@" index 7
    tc actions change action "$@" index 7
    tc actions get action "$1" index 7
    tc actions del action "$1" index 7
    tc actions flush action "$1"
}

discipline() {
    case $1 in
    tbf) words='rate 80mbit burst 64k latency 50ms' ;;
    netem) words='delay 1ms 1ms loss 5% duplicate 5% corrupt 1% reorder 25% 50%' ;;
    red) words='limit 400000 min 30000 max 90000 avpkt 1000 burst 55 bandwidth 10mbit' ;;
    gred) words='setup DPs 2 default 0' ;;
    choke) words='limit 1000 bandwidth 10mbit' ;;
    mqprio) words='num_tc 1 map 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 queues 1@0 hw 0' ;;
    cbs | etf | taprio | ets) words= ;;
    plug) words= ;;
    htb) words='default 10' ;;
    hfsc) words='default 10' ;;
    cbq) words='bandwidth 100mbit avpkt 1000' ;;
    codel | fq_codel) words='target 1ms interval 2ms limit 20' ;;
    *) words= ;;
    esac
    # shellcheck disable=SC2086
    tc qdisc replace dev v0 root handle 1: $1 $words
    case $1 in
    htb) tc class add dev v0 parent 1: classid 1:10 htb rate 80mbit ;;
    hfsc) tc class add dev v0 parent 1: classid 1:10 hfsc sc rate 80mbit ul rate 80mbit ;;
    cbq) tc class add dev v0 parent 1: classid 1:10 cbq bandwidth 100mbit rate 50mbit allot 1514 prio 1 avpkt 1000 ;;
    drr | qfq)
        tc class add dev v0 parent 1: classid 1:10 "$1" ${q:-}
        tc filter add dev v0 parent 1: protocol all prio 1 matchall classid 1:10
        ;;
    esac
    traffic
    tc -s qdisc show dev v0
    tc -s class show dev v0
    # shellcheck disable=SC2086
    tc qdisc change dev v0 root handle 1: $1 $words
    tc qdisc del dev v0 root
    # Below a shaper that is slower than the traffic, the discipline has a queue.
    tc qdisc add dev v0 root handle 1: tbf rate 8mbit burst 3000 limit 30000 &&
        tc qdisc add dev v0 parent 1:1 handle 2: "$1" && traffic
    tc qdisc del dev v0 root
}

action() {
    case $1 in
    tunnel_key)
        with_action tunnel_key set src_ip 10.9.0.1 dst_ip 10.9.0.2 id 7 dst_port 4789 nocsum
        with_action tunnel_key set src_ip fd09::1 dst_ip fd09::2 id 7 geneve_opts 0102:80:00112233
        with_action tunnel_key unset
        ;;
    gact) with_action gact pass random netrand drop 3 ;;
    mirred) with_action mirred egress mirror dev lo ;;
    police) with_action police rate 80mbit burst 64k conform-exceed drop/pass ;;
    pedit) with_action pedit munge ip ttl set 60 ;;
    skbedit) with_action skbedit priority 3 mark 5 ;;
    skbmod) with_action skbmod swap mac ;;
    vlan) with_action vlan push id 5 ;;
    mpls) with_action mpls push label 5 ;;
    csum) with_action csum ip4h and icmp ;;
    bpf) with_action bpf bytecode '1,6 0 0 4294967295,' ;;
    simple) with_action simple sdata word ;;
    ife) with_action ife encode allow mark ;;
    nat) with_action nat egress 10.9.0.1 10.9.0.3 ;;
    sample) with_action sample rate 10 group 5 ;;
    connmark | ct | ctinfo) with_action "$1" ;;
    gate) with_action gate clockid CLOCK_TAI sched-entry open 10000000 -1 -1 ;;
    esac
}

classifier() {
    classes
    case $1 in
    u32) set -- u32 match ip dst 10.9.0.2/32 ;;
    fw) set -- handle 1 fw ;;
    basic) set -- basic match 'cmp(u8 at 0 layer 1 eq 69)' ;;
    bpf) set -- bpf bytecode '1,6 0 0 4294967295,' ;;
    flower) set -- flower dst_ip 10.9.0.2 ip_proto tcp ;;
    flow) set -- handle 1 flow hash keys dst divisor 8 baseclass 1:1 ;;
    cgroup) set -- handle 1 cgroup ;;
    matchall) set -- matchall ;;
    route) set -- route to 5 ;;
    *) return ;;
    esac
    for flags in '' skip_hw; do
        # shellcheck disable=SC2086
        case "$* $flags" in
        *' skip_hw') case $1 in u32 | bpf | flower | matchall) ;; *) continue ;; esac ;;
        esac
        tc filter add dev v0 parent $parent protocol ip prio 5 "$@" $flags classid 1:1
        traffic
        tc -s filter show dev v0 parent $parent
        tc filter replace dev v0 parent $parent protocol ip prio 5 handle 1 "$@" $flags classid 1:2
        tc filter change dev v0 parent $parent protocol ip prio 5 handle 0x1 "$@" classid 1:1
        tc filter get dev v0 parent $parent protocol ip prio 5 handle 0x1 "$1"
        tc filter del dev v0 parent $parent protocol ip prio 5 handle 0x1 "$1"
        tc filter del dev v0 parent $parent prio 5
    done
    tc filter add dev v0 parent $parent protocol ip prio 5 "$@" skip_sw classid 1:1 # no hardware: an error's path
    tc qdisc del dev v0 root
}

for source in "$@"; do
    case $source in
    sch_api | sch_generic)
        for one in fq_codel pfifo; do discipline $one; done
        ;;
    sch_fifo) discipline pfifo && discipline bfifo ;;
    sch_*) discipline "${source#sch_}" ;;
    act_api) action gact ;;
    act_*) action "${source#act_}" ;;
    cls_api) classifier matchall ;;
    cls_*) classifier "${source#cls_}" ;;
    em_* | ematch) classifier basic ;;
    esac
done 2>&1
exit 0
