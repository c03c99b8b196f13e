# SPDX-License-Identifier: GPL-2.0-or-later
# Control groups of both versions: controllers, tasks that move, limits, freezing, statistics, memory nodes of cpusets.
mkdir -p /tmp/v1 /tmp/v2
for controller in cpuset freezer devices net_cls net_prio perf_event cpuacct; do
    mkdir -p "/tmp/v1/$controller"
    mount -t cgroup -o "$controller" cgroup "/tmp/v1/$controller" 2>/dev/null || continue
    at=/tmp/v1/$controller/elivepatch
    mkdir "$at"
    case $controller in
    cpuset)
        echo 0 >"$at/cpuset.mems"
        echo 0-1 >"$at/cpuset.cpus"
        echo 1 >"$at/cpuset.memory_migrate"
        ;;
    esac
    sleep 30 &
    echo $! >"$at/cgroup.procs"
    case $controller in
    cpuset) mkdir "$at/inner" && echo 0 >"$at/inner/cpuset.mems" && rmdir "$at/inner" && echo 0 >"$at/cpuset.cpus" && echo 0 >"$at/cpuset.mems" && echo 1 >"$at/cpuset.memory_spread_page" ;;
    freezer) echo FROZEN >"$at/freezer.state" && usleep 50000 && echo THAWED >"$at/freezer.state" ;;
    devices) echo a >"$at/devices.deny" && echo 'c 1:3 rwm' >"$at/devices.allow" ;;
    esac
    cat "$at"/* >/dev/null 2>&1
    kill $!
    wait $! 2>/dev/null
    rmdir "$at"
    umount "/tmp/v1/$controller"
done
mount -t cgroup2 cgroup2 /tmp/v2
group=/tmp/v2/elivepatch
for controller in cpuset cpu io memory pids hugetlb rdma misc; do
    echo "+$controller" >/tmp/v2/cgroup.subtree_control
done 2>/dev/null
mkdir -p "$group/inner"
for controller in cpuset cpu io memory pids; do
    echo "+$controller" >"$group/cgroup.subtree_control"
done 2>/dev/null
sleep 30 &
task=$!
echo "$task" >"$group/inner/cgroup.procs"
for value in cpuset.cpus:0 cpuset.mems:0 cpuset.cpus:0-1 cpuset.cpus.partition:root cpuset.cpus.partition:member cpu.weight:50 \
    cpu.max:'50000 100000' memory.low:1M memory.high:64M memory.max:64M memory.swap.max:0 pids.max:10 io.weight:50 \
    cgroup.freeze:1 cgroup.freeze:0 cgroup.max.depth:3 cgroup.pressure:0 cgroup.pressure:1 hugetlb.2MB.max:0; do
    for place in "$group" "$group/inner"; do
        echo "${value#*:}" >"$place/${value%%:*}"
    done
done 2>/dev/null
cat "$group"/*.stat "$group"/cgroup.* "$group/inner"/* >/dev/null 2>&1
(head -c 4000000 /dev/zero | tail -c 1 | od) >/dev/null
echo threaded >"$group/inner/cgroup.type" 2>/dev/null
cat /proc/self/cgroup /proc/cgroups /proc/self/cpuset >/dev/null 2>&1
echo 1 >"$group/inner/cgroup.kill" 2>/dev/null || kill "$task"
usleep 50000
rmdir "$group/inner" "$group"
exit 0
