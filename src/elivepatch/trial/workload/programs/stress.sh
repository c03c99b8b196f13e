# SPDX-License-Identifier: GPL-2.0-or-later
# Classes of stress-ng, one after the other, each for its part of the time: SECONDS CLASS... , up to a word with a dot
# (`.`), after which the names of the sources follow.
seconds=$1
shift
classes=
for word in "$@"; do
    [ "$word" != . ] || break
    classes="$classes $word"
done
# shellcheck disable=SC2086
set -- $classes
[ "$seconds" -le 6 ] || seconds=6
for class in "$@"; do
    words="$words --$class 1"
done
cd /tmp || exit 1
# All at once: most of them wait more than they compute.
# shellcheck disable=SC2086
stress-ng --quiet --temp-path /tmp --oomable --timeout "$((seconds > 1 ? seconds - 1 : 1))" $words
status=$?
# A class that this kernel does not have, or a resource that is used up, is no failure of the workload.
case $status in 0 | 2 | 3 | 4 | 5) exit 0 ;; esac
exit "$status"
