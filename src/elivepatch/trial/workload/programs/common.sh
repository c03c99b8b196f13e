# SPDX-License-Identifier: GPL-2.0-or-later
# Functions of the programs. Each program gets its time in seconds and then its arguments. Its work is small and fixed:
# it ends as soon as it has run the code that it is for.

# The shell of busybox prefers its own ip, tc and mke2fs to those in the PATH.
ip() { /trial/tools/ip "$@"; }
tc() { /trial/tools/tc "$@"; }
mke2fs() { /trial/tools/mke2fs "$@"; }

pair() { # two namespaces with a link between them: v0 with 10.9.0.1 here, v1 with 10.9.0.2 in the process $PEER
    unshare -n sleep 60 &
    PEER=$!
    usleep 50000
    ip -force -batch - <<LINES
link add v0 type veth peer name v1
link set v1 netns $PEER
addr add 10.9.0.1/24 dev v0
addr add fd09::1/64 dev v0 nodad
link set v0 up
LINES
    peer ip -force -batch - <<LINES
addr add 10.9.0.2/24 dev v1
addr add fd09::2/64 dev v1 nodad
link set lo up
link set v1 up
LINES
    [ -d /sys/class/net/v0 ]
}

peer() { # COMMAND...: in the other namespace
    command=$1
    shift
    [ ! -x "/trial/tools/$command" ] || command=/trial/tools/$command
    nsenter -t "$PEER" -n "$command" "$@"
}

pings() { # ADDRESS [SIZE]
    ping -c 2 -i 0.1 -W 1 -s "${2:-56}" "$1"
}

transfer() { # ADDRESS: a megabyte over TCP, from here to a server in the other namespace
    peer nc -l -p 5001 >/dev/null &
    server=$!
    usleep 50000
    head -c 1000000 /dev/zero | timeout 1 nc "$1" 5001
    kill "$server" 2>/dev/null
}
