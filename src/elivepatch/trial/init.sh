#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First program of a trial's guest: works through the cases in /trial/case and reports what it observes.
#
# The report goes to the second serial port, one record per line: SCOPE KEY BASE64, where SCOPE is the number of a case
# or `-` for the guest itself. The kernel's own log goes to the first port, so that the two never mix. A record with an
# exit status has it on its first line. guest_protocol.py parses the records; change both together.
#
# No part of a case is ever part of a command line here: the server has checked the names, and commands are files.

export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/ TERM=dumb
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# The image has the device nodes that are needed; devtmpfs adds those of the kernel, if it is built in.
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t tmpfs -o size=64m tmpfs /tmp
# The size of this file system limits an observation: output of a command beyond it is lost.
mount -t tmpfs -o size=64k tmpfs /observed
ip link set lo up 2>/dev/null
exec 3<>/dev/ttyS1
stty -icanon -echo min 1 time 0 <&3

# The machine may be slow or busy. Booting takes about 4 s; each time limit grows with what it took here.
read -r now _ </proc/uptime
SLOW=$((${now%.*} / 8 + 1))
[ "$SLOW" -le 6 ] || SLOW=6 # watchdog_thresh may be 60 at most

# A task or a processor that hangs ends the guest with a trace in the log, and does not use up the trial's time.
for setting in "hung_task_timeout_secs=$((20 * SLOW))" "watchdog_thresh=$((10 * SLOW))" hung_task_panic=1 \
    softlockup_panic=1 panic_on_rcu_stall=1; do
    { echo "${setting#*=}" >"/proc/sys/kernel/${setting%=*}"; } 2>/dev/null
done
{ echo "$((21 * SLOW))" >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout; } 2>/dev/null

SHELL_AT=$(cat /trial/shell 2>/dev/null) # the phase at which a person looks round, if that was asked for

# After 15 s the kernel signals the tasks that hold up a transition (kernel/livepatch/transition.c).
TRANSITION_S=$((25 * SLOW))
COMMAND_S=$((5 * SLOW))
LOOK_S=$((15 * SLOW))
ARMED_S=5 # time for what a livepatch has armed: timers, work, callbacks
BAD_TAINTS=$((1 << 7 | 1 << 9 | 1 << 14)) # died, warned, soft lockup: Documentation/admin-guide/tainted-kernels.rst

record() { # SCOPE KEY <content
    { printf '%s %s ' "$1" "$2" && base64 -w 0 && echo; } >&3
}

say() { # SCOPE KEY TEXT
    printf '%s' "$3" | record "$1" "$2"
}

klog() { # SCOPE KEY: the kernel's log since the last time
    dmesg -cr | head -c 1048576 | record "$1" "$2"
}

uptime() {
    read -r now _ </proc/uptime
}

alive() { # the guest's time and its processors' busy time (1/100 s), for the monitor outside (monitor.py)
    while [ ! -e /tmp/no-signs ] && read -r _ user nice system _ _ irq softirq _ </proc/stat && read -r now _ </proc/uptime; do
        echo "elivepatch: alive $now $((user + nice + system + irq + softirq))" >/dev/kmsg
        usleep 2000000
    done
}

run() { # KEY COMMAND...: record the status and the output of one of our own steps
    key=$1
    shift
    output=$("$@" 2>&1)
    status=$?
    printf '%s\n%s' "$status" "$output" | record "$case" "$key"
    return "$status"
}

stage() { # NAME: mark the kernel's log, so that the console of a dead guest shows how far it came
    echo "elivepatch: case $case $1" >/dev/kmsg
}

look() { # PHASE: wait until this guest was looked at from outside (outside/watcher.py), which a break here tells
    [ "$watched" = yes ] || return 0
    say "$case" "look.$1" ""
    # Whoever does not answer once is not waited for again, nor would a late answer count for the next phase.
    timeout "$LOOK_S" head -c 1 <&3 >/dev/null && return
    watched=no
    say "$case" unanswered ""
}

observe() { # PHASE
    stage "$1"
    for expectation in "$dir"/expect/*; do
        [ -f "$expectation" ] || continue
        out=/observed/out
        rm -f /observed/*
        : >"$out"
        if [ -f "$dir/limits/${expectation##*/}" ]; then
            predicate "$expectation"
        else
            (cd / && timeout -s KILL "$COMMAND_S" sh "$expectation" >"$out" 2>&1 </dev/null 3>&-)
            status=$?
            # The limit ended the shell that ran the command; programs that it started may still run.
            [ "$status" = 137 ] && kill -9 -1 && { alive 3>&- & }
        fi
        { echo "$status" && cat "$out"; } | record "$case" "$1.${expectation##*/}"
    done
    [ "$1" != "$SHELL_AT" ] || prompt "$1"
}

prompt() { # PHASE: give the console to a person (trial/shell.py); the guest ends with that person's shell
    : >/tmp/no-signs # of life: they would be printed in between
    cd /
    echo "elivepatch: shell" >/dev/ttyS0
    TERM=vt100 PS1="guest, $1 # " setsid sh -c 'exec sh -i </dev/ttyS0 >/dev/ttyS0 2>&1' 3>&-
    exec 3>&-
    reboot -f
}

stuck() { # KEY: the tasks that hold up a transition, and where they are
    for task in /proc/[0-9]*/task/[0-9]*; do
        { read -r patched <"$task/patch_state" && read -r comm <"$task/comm"; } 2>/dev/null || continue
        [ "$patched" = "$1" ] || continue
        echo "${task##*/} ($comm)"
        head -n 12 "$task/stack" 2>/dev/null
    done | head -n 60
}

settled() { # wait for the transition to an enabled livepatch
    uptime
    limit=$((${now%.*} + TRANSITION_S))
    while [ "${now%.*}" -lt "$limit" ]; do
        [ -d "$sys" ] || return 1
        { read -r enabled <"$sys/enabled" && read -r moving <"$sys/transition"; } 2>/dev/null
        [ "$enabled$moving" = 10 ] && return 0
        usleep 50000
        uptime
    done
    stuck 0
    return 2
}

gone() { # wait for the transition back; the kernel removes the directory at its end
    uptime
    limit=$((${now%.*} + TRANSITION_S))
    while [ "${now%.*}" -lt "$limit" ]; do
        [ -d "$sys" ] || return 0
        usleep 50000
        uptime
    done
    stuck 1
    return 2
}

objects() { # a line for each object: its name, 1 if it is patched (- if the kernel does not show it), 1 if it is loaded
    for object in "$sys"/*/; do
        object=${object%/}
        patched=- loaded=0
        { read -r patched <"$object/patched"; } 2>/dev/null
        [ "${object##*/}" = vmlinux ] || [ -d "/sys/module/${object##*/}" ] && loaded=1
        echo "${object##*/} $patched $loaded"
    done
}

reload() { # unload the modules that the livepatch changes, and load them again while it is live
    stage reload
    refused=no
    while read -r module; do
        [ -f "/sys/module/$module/refcnt" ] || continue
        run "removed.$module" rmmod "$module" || continue
        run "added.$module" insmod "/trial/modules/$module.ko" && continue
        refused=yes
    done <"$dir/parents"
    # Without this function the kernel cannot relocate a module twice (arch/x86/kernel/module.c).
    [ "$refused" = no ] || grep -q ' clear_relocate_add$' /proc/kallsyms || say "$case" no-reload ""
    run objects.2 objects
}

take() { # unload the modules that the livepatch changes, before it is loaded, so that they come after it
    taken=
    while read -r module; do
        [ -f "/sys/module/$module/refcnt" ] || continue
        run "taken.$module" rmmod "$module" && taken="$module $taken"
    done <"$dir/late"
}

arrive() { # load them while it is live: the kernel patches each as it comes
    [ -n "$taken" ] || return
    klog "$case" log.second
    stage late
    for module in $taken; do
        run "late.$module" insmod "/trial/modules/$module.ko"
    done
    run objects.late objects
    klog "$case" log.late
}

unload() { # retry: the kernel drops its reference a moment after the directory is gone
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        words=$(rmmod "$name" 2>&1)
        status=$?
        [ "$status" = 0 ] && return 0
        usleep 100000
    done
    echo "$words"
    return "$status"
}

disable() {
    echo 0 >"$sys/enabled"
}

busy() { # put a task on each processor that makes system calls, so that the transition is not one of idle tasks
    workers=
    for mask in 1 2; do
        echo 0 >"/tmp/busy.$mask"
        # It works a part of the time only: one thread emulates both processors, and the guest's own work must go on.
        # shellcheck disable=SC2016 # the other shell expands it
        taskset "$mask" sh -c 'rounds=0
            while [ "$rounds" -lt 4000 ] && read -r _ _ </proc/uptime; do
                rounds=$((rounds + 1))
                [ "$((rounds % 8))" = 0 ] || continue
                echo "$rounds" >>"/tmp/busy.$0" # appended: it may be ended at any moment
                usleep 30000
            done' "$mask" 2>/dev/null 3>&- &
        workers="$workers $!"
    done
}

calm() { # KEY: end these tasks and record how often each has read a file
    # shellcheck disable=SC2086 # two numbers
    kill -9 $workers 2>/dev/null
    run "$1" tail -q -n 1 /tmp/busy.1 /tmp/busy.2
}

# A transition begins by looking at all tasks once, and again only after a second. The task that another processor runs
# at that moment, if only its idle task, cannot be switched. So only the first round of each case is with all processors.
others() { # 0|1: switch all processors but the first off or on; one that is so already stays as it is
    for switch in /sys/devices/system/cpu/cpu[1-9]*/online; do
        read -r state 2>/dev/null <"$switch" && [ "$state" != "$1" ] && { echo "$1" >"$switch"; } 2>/dev/null
    done
}

enable() { # ROUND
    stage "load.$1"
    uptime
    say "$case" "started.$1" "$now"
    run "load.$1" insmod "$file" || return 1
    run "settled.$1" settled
    status=$?
    uptime
    say "$case" "finished.$1" "$now"
    if [ "$status" = 2 ]; then # reverse the transition, so that the next case may get a whole kernel
        disable 2>/dev/null
        gone >/dev/null
    fi
    return "$status"
}

revert() { # ROUND
    stage "disable.$1"
    run "disable.$1" disable && run "gone.$1" gone
}

# Directory of the control groups for what a workload and predicates start. If the kernel has none, it is not there, so
# that nobody takes a plain file in it for a limit.
GROUPS_TOP=/run/groups
control_groups() {
    mkdir -p "$GROUPS_TOP"
    mount -t cgroup2 cgroup2 "$GROUPS_TOP" 2>/dev/null || { rmdir "$GROUPS_TOP" && return; }
    for controller in memory pids; do
        { echo "+$controller" >"$GROUPS_TOP/cgroup.subtree_control"; } 2>/dev/null
    done
}
[ ! -d /trial/workload ] && [ ! -d /trial/predicates ] || control_groups

# The workload, and the counts of calls, are in workload/guest.sh; a case without either does not have it.
work() { :; }
count_on() { :; }
count_off() { :; }
[ ! -f /trial/workload/guest.sh ] || . /trial/workload/guest.sh
# `predicate` of a case that has one.
[ ! -f /trial/predicates/guest.sh ] || . /trial/predicates/guest.sh

scenario() {
    others 1
    work before
    observe before
    klog "$case" log.before
    look before
    busy
    enable 1
    went=$?
    calm busy.load
    [ "$went" = 0 ] || return
    run objects.1 objects
    count_on
    observe during
    work during
    count_off
    look during
    if [ -e "$dir/stays" ]; then # the kernel never unloads it, so it is loaded once
        klog "$case" log.again
        reload
        klog "$case" log.reload
    fi
    busy
    revert 1
    went=$?
    calm busy.revert
    [ "$went" = 0 ] || return
    klog "$case" log.during
    observe after
    work after
    klog "$case" log.after
    look after
    if [ -e "$dir/stays" ]; then
        stage armed
        sleep "$ARMED_S"
        klog "$case" log.armed
        look end
        return
    fi
    stage unload
    run unload.1 unload || return
    others 0
    take
    enable 2 || return
    arrive
    observe again
    look again
    klog "$case" log.again
    reload
    klog "$case" log.reload
    revert 2 || return
    run unload.2 unload || return
    if [ -d "$dir/earlier" ]; then over || return; fi
    look end
}

of() { # DIRECTORY: the steps are for the livepatch in it from now on
    file=$1/livepatch.ko
    read -r name <"$1/name"
    sys=/sys/kernel/livepatch/$name
}

replaced() { # wait until only this livepatch is there: the kernel frees those that it replaces a moment later
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(ls /sys/kernel/livepatch)" != "$name" ] || break
        usleep 100000
    done
    ls /sys/kernel/livepatch
}

over() { # load the livepatch while an earlier one is live, which it replaces
    stage earlier
    of "$dir/earlier"
    enable 0
    went=$?
    of "$dir"
    [ "$went" = 0 ] || return
    enable 3 || return
    run live.3 replaced
    observe over
    look over
    klog "$case" log.over
    revert 3 || return
    run unload.3 unload || return
    of "$dir/earlier"
    run unload.0 unload
    of "$dir"
}

parents() {
    stage parents
    while read -r module; do
        [ -d "/sys/module/$module" ] || run "module.$module" insmod "/trial/modules/$module.ko"
    done <"$dir/modules"
}

taints() { # without `read`, which takes single bytes: files of /proc/sys end after the first read
    taint=$(($(cat /proc/sys/kernel/tainted) & BAD_TAINTS))
}

healthy() {
    taints
    [ "$taint" = "$taint_before" ] && [ ! -d "/sys/module/$name" ] || return
    [ ! -d "$dir/earlier" ] || [ ! -d "/sys/module/$(cat "$dir/earlier/name")" ]
}

uname -r | record - release
record - notes </sys/kernel/notes
klog - log.boot
alive 3>&- &
watched=yes
[ -z "$SHELL_AT" ] || watched=no
say - ready ""
for dir in /trial/case/*; do
    [ -d "$dir" ] || continue
    case=${dir##*/}
    of "$dir"
    taints
    taint_before=$taint
    say "$case" begin ""
    parents
    scenario
    klog "$case" log.rest
    say "$case" done ""
    healthy || break # the next case gets a fresh kernel
done
say - end ""
# Closing waits until the port has sent everything.
exec 3>&-
reboot -f
