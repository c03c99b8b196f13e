# SPDX-License-Identifier: GPL-2.0-or-later
# Functions of the programs. Each program gets its time in seconds and then its arguments. Its work is small and fixed:
# it ends as soon as it has run the code that it is for.

pair() { # two namespaces with a link between them: v0 with 10.9.0.1 here, v1 with 10.9.0.2 in the process $PEER
    unshare -n sleep 60 &
    PEER=$!
    usleep 50000
    ip link add v0 type veth peer name v1 && ip link set v1 netns "$PEER" || return 1
    ip addr add 10.9.0.1/24 dev v0
    ip -6 addr add fd09::1/64 dev v0 nodad 2>/dev/null
    ip link set v0 up
    peer ip addr add 10.9.0.2/24 dev v1
    peer ip -6 addr add fd09::2/64 dev v1 nodad 2>/dev/null
    peer ip link set lo up
    peer ip link set v1 up
}

peer() { # COMMAND...: in the other namespace
    nsenter -t "$PEER" -n "$@"
}

pings() { # ADDRESS [SIZE]
    ping -c 2 -i 0.1 -W 1 -s "${2:-56}" "$1"
}

transfer() { # ADDRESS: a megabyte over TCP, from here to a server in the other namespace
    peer nc -l -p 5001 >/dev/null &
    usleep 50000
    head -c 1000000 /dev/zero | timeout 2 nc "$1" 5001
}
