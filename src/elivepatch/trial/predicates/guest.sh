# SPDX-License-Identifier: GPL-2.0-or-later
# Part of init.sh, which reads this file: runs predicates within their limits.
#
# A predicate may hang, fork without end or kill all that it can reach. It runs in namespaces of its own for processes
# and mounts, so that it cannot signal or restart the guest; what it leaves behind ends with the first process there. A
# control group bounds its memory and its processes. A kernel that lacks one of these bounds the time all the same.

LATE=124 # status of a predicate that was stopped at its time limit (model/predicate.py)

apart="unshare -m -p -f --mount-proc"
$apart true 2>/dev/null || apart=

grouped() { # MIB PROCESSES: make a fresh control group
    group=$GROUPS_TOP/predicate
    mkdir "$group" 2>/dev/null || return
    {
        # Not memory.max: the kernel prints a trace when it kills, and the trial could not tell whose fault that is.
        # What takes more is slowed down until its time is up. A single process that asks for more gets an error.
        echo "$(($1 << 20))" >"$group/memory.high"
        echo "$(($2 + 8))" >"$group/pids.max" # and those that run it
    } 2>/dev/null
}

ended() { # end all that the predicate started
    { echo 1 >"$group/cgroup.kill"; } 2>/dev/null || [ "$1" != 137 ] || { kill -9 -1 && { alive 3>&- & }; }
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        rmdir "$group" 2>/dev/null && return
        [ -d "$group" ] || return
        usleep 50000
    done
}

predicate() { # FILE: run one; its output goes to $out, its exit status to $status
    local seconds memory kib processes language began
    read -r seconds memory kib processes language <"$dir/limits/${1##*/}"
    seconds=$((seconds * SLOW))
    grouped "$memory" "$processes"
    uptime
    began=${now%.*}
    # The inner limit ends the program. The outer one is for a program that has killed the inner one.
    (
        cd / || exit
        { echo 0 >"$group/cgroup.procs"; } 2>/dev/null
        ulimit -v "$(((memory + 16) * 1024))"
        # shellcheck disable=SC2086 # words of a command, or none
        exec timeout -s KILL "$((seconds + 2))" $apart sh -c '
            if [ -n "$4" ]; then
                mount -t tmpfs -o size=16m tmpfs /tmp
                # Not for protection, the program is root: a port or a key that it opens by mistake does nothing.
                for file in /dev/ttyS0 /dev/ttyS1 /proc/sysrq-trigger; do mount -o bind /dev/null "$file"; done
            fi 2>/dev/null
            case $3 in
            c) timeout -s KILL "$1" "$2" ;;
            *) timeout -s KILL "$1" sh "$2" ;;
            esac
            exit "$?"' sh "$seconds" "$1" "$language" "$apart" >"$out" 2>&1 </dev/null 3>&-
    )
    status=$?
    uptime
    ended "$status"
    [ "$status" = 137 ] && [ "$((${now%.*} - began))" -ge "$seconds" ] && status=$LATE
    head -c "$((kib * 1024))" "$out" >/tmp/predicate.out && out=/tmp/predicate.out
}
