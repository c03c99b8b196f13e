# SPDX-License-Identifier: GPL-2.0-or-later
# Part of init.sh for a case with a workload or with functions to count: init.sh reads it if the image has it.
#
# A case has the files work/programs (a line for each: NAME FILE ARGUMENTS), work/modules (the modules that they need),
# work/functions (a line for each replaced function: NUMBER SYMBOL) and work/budget_s. guest_records.py parses the
# records `worked.PHASE` and `counts`; change both together. Its variables are local: init.sh has many of its own.
#
# A program may hang, fork without end or eat the memory. So it has a time limit, a control group, namespaces of its own
# where the kernel has them, and nothing of it survives the phase: init alone is left.

GROUP=$GROUPS_TOP/work
# Every line that kernel_log.py takes for trouble matches this. More may match: the workload is left out then, no more.
NOISE='BUG|WARNING|[Pp]anic|PANIC|Oops|\[#[0-9]|UBSAN|CFI failure|ENDBR|rcu|blocked|lockup|LOCKUP|refcount_t|corruption|Call Trace'

centiseconds() { # of the guest's clock; a number with a leading zero, such as 09, would be octal
    read -r now _ </proc/uptime
    now=$((100 * ${now%.*} + 1${now#*.} - 100))
}

confine() { # once a guest: a control group that slows down what eats the memory, and bounds the number of processes
    [ -z "$SPACES" ] || return 0
    if mkdir "$GROUP" 2>/dev/null; then
        { echo 256 >"$GROUP/pids.max"; } 2>/dev/null
        # Not memory.max: the kernel prints a trace when it kills, and the trial could not tell whose fault that is.
        { read -r _ total _ </proc/meminfo && echo "$((total / 2))K" >"$GROUP/memory.high"; } 2>/dev/null
    fi
    export SPACES=" "
    for space in -m -n -i -u -p; do
        unshare "$space" true 2>/dev/null && SPACES="$SPACES $space"
    done
    case $SPACES in *-p*) SPACES="$SPACES -f" ;; esac
}

program() { # SECONDS FILE ARGUMENT...: one program under its limits; returns its status
    local seconds=$1 file=$2 first
    shift 2
    (
        { echo 0 >"$GROUP/cgroup.procs"; } 2>/dev/null || ulimit -v 262144
        { echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null
        cd /trial/workload/programs || exit 1
        # shellcheck disable=SC2086 # several options
        exec timeout -s KILL "$seconds" unshare $SPACES \
            sh /trial/workload/start.sh "$file" "$seconds" "$@"
    ) >/dev/null 2>/tmp/words </dev/null 3>&-
    status=$?
    kill -9 -1 # only init is left, and the next sign of life comes at once
    { alive 3>&- & }
    for _ in 1 2 3 4 5 6 7 8 9 10; do # those that were killed need a moment to end
        read -r first <"$GROUP/cgroup.procs" || break
        [ -n "$first" ] || break
        usleep 50000
    done 2>/dev/null
    return "$status"
}

needed() { # load the modules that the programs need and that are not there
    local module
    while read -r module; do
        [ -d "/sys/module/$module" ] || ! insmod "/trial/modules/$module.ko" 2>/dev/null || added="$module $added"
    done <"$dir/tasks/modules"
}

no_longer_needed() { # the last one first; one that something still uses stays
    local module
    for module in $added; do
        rmmod "$module" 2>/dev/null || { usleep 100000 && rmmod "$module" 2>/dev/null; } || left="$module $left"
    done
    added=
}

work() { # PHASE
    case $1 in before) worked= added= skipped=" " ;; *) [ "$worked" = well ] || return 0 ;; esac
    [ -s "$dir/tasks/programs" ] || return 0
    local began budget end left limit name_of file arguments
    confine
    stage "work.$1"
    centiseconds
    began=$now
    read -r budget <"$dir/tasks/budget_s"
    # A half of the budget is for the time in which the livepatch is live.
    case $1 in during) end=$((began + budget * 50)) ;; *) end=$((began + budget * 25)) ;; esac
    needed
    left=$(wc -l <"$dir/tasks/programs")
    : >/tmp/worked
    while read -r name_of file arguments; do
        centiseconds
        limit=$(((end - now) / left / 100))
        left=$((left - 1))
        # One that the unpatched kernel had no time for never runs: its trouble would be the patch's.
        case $skipped in *" $name_of "*) limit=never ;; esac
        if [ "$limit" = never ] || { [ "$limit" -lt 1 ] && [ "$now" -ge "$end" ]; }; then
            skipped="$skipped$name_of "
            echo "$name_of -" >>/tmp/worked
            continue
        fi
        [ "$limit" -ge 1 ] || limit=1
        # shellcheck disable=SC2086 # several arguments
        program "$limit" "$file" $arguments
        echo "$name_of $? $(head -c 300 /tmp/words | tr '\n' ' ')" >>/tmp/worked
    done <"$dir/tasks/programs"
    if [ "$1" = before ]; then
        worked=well
        taints
        if [ "$taint" != "$taint_before" ] || dmesg | grep -qE "$NOISE"; then
            worked=badly # a fault of the unpatched kernel, or of the workload
        fi
        klog "$case" log.workload
    fi
    # They are gone before the modules that the livepatch changes are unloaded and loaded again.
    case $1.$worked.$([ -e "$dir/stays" ] && echo stays) in
    after.* | *.badly.* | during.*.stays) no_longer_needed ;;
    esac
    centiseconds
    { echo "$((now - began)) ${worked:-well}" && cat /tmp/worked; } | record "$case" "worked.$1"
}

TRACING=/sys/kernel/tracing
[ -d "$TRACING/events" ] || TRACING=/sys/kernel/debug/tracing
INSTANCE=$TRACING/instances/elivepatch

count_on() { # count the calls of the livepatch's own functions: kprobes have exact counters, the tracer has a buffer
    [ -s "$dir/tasks/functions" ] || return 0
    local number symbol enabled
    counter=none
    if [ -w "$TRACING/kprobe_events" ]; then
        counter=kprobe
        echo 0 >"$TRACING/tracing_on" # the counters do not need the buffer
        while read -r number symbol; do
            { echo "p:elivepatch/f$number $name:$symbol" >>"$TRACING/kprobe_events"; } 2>/dev/null
        done <"$dir/tasks/functions"
        { echo 1 >"$TRACING/events/elivepatch/enable"; } 2>/dev/null
        { read -r enabled <"$TRACING/events/elivepatch/enable"; } 2>/dev/null && [ "$enabled" = 1 ] || counter=none
    elif mkdir "$INSTANCE" 2>/dev/null; then
        { echo 4096 >"$INSTANCE/buffer_size_kb" && echo 0 >"$INSTANCE/options/overwrite"; } 2>/dev/null
        { echo ":mod:$name" >"$INSTANCE/set_ftrace_filter" && echo function >"$INSTANCE/current_tracer"; } 2>/dev/null &&
            counter=tracer
    fi
    return 0
}

count_off() {
    [ -s "$dir/tasks/functions" ] || return 0
    local counts
    counts=
    case $counter in
    kprobe) counts=$(cat "$TRACING/kprobe_profile") ;;
    tracer)
        # Another tracer would empty the buffer. A function that is not in the filter was not traced.
        echo 0 >"$INSTANCE/tracing_on"
        counts=$(sed 's/ .*//; s/^/traced /' "$INSTANCE/set_ftrace_filter" &&
            grep -h '^overrun\|^dropped' "$INSTANCE"/per_cpu/cpu*/stats && awk '
            /<-/ { for (i = 2; i <= NF; i++) if ($i ~ /^<-/) { f = $(i - 1); if (f ~ /^\[/) f = $(i - 2); calls[f]++ } }
            END { for (f in calls) print f, calls[f] }' "$INSTANCE/trace")
        echo nop >"$INSTANCE/current_tracer"
        ;;
    esac
    if [ -w "$TRACING/kprobe_events" ]; then
        { echo 0 >"$TRACING/events/elivepatch/enable"; } 2>/dev/null
        : >"$TRACING/kprobe_events"
        echo 1 >"$TRACING/tracing_on"
    fi
    rmdir "$INSTANCE" 2>/dev/null
    printf '%s\n%s\n' "$counter" "$counts" | head -c 65536 | record "$case" counts
}
