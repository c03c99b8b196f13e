# SPDX-License-Identifier: GPL-2.0-or-later
# AppArmor: namespaces of policies, labels that stack several of them, queries, lists, and a policy that is refused.
mount -t securityfs securityfs /sys/kernel/security || exit 1
at=/sys/kernel/security/apparmor
rmdir "$at/policy/namespaces/one" "$at/policy/namespaces/two" 2>/dev/null
mkdir "$at/policy/namespaces/one" "$at/policy/namespaces/two"
for label in unconfined 'unconfined//&:one:unconfined' ':one:unconfined//&:two:unconfined' 'nosuch//&unconfined' \
    'unconfined//&:one:unconfined//&:two:unconfined'; do
    printf 'label\0%s\0\1\1' "$label" | perl -e '
        open(my $f, "+<", $ARGV[0]) or exit; local $/; my $q = <STDIN>; syswrite($f, $q); sysread($f, my $a, 4096)' "$at/.access"
    for way in changeprofile stack changehat permprofile; do
        (echo "$way $label" >/proc/self/attr/current) 2>/dev/null
        (echo "$way $label" >/proc/self/attr/apparmor/exec && true) 2>/dev/null
    done
done
echo 'no policy' >"$at/.load" 2>/dev/null
cat "$at/profiles" /proc/self/attr/current /proc/1/attr/current >/dev/null 2>&1
find "$at/features" -type f -exec cat {} + >/dev/null 2>&1
rmdir "$at/policy/namespaces/one" "$at/policy/namespaces/two"
exit 0
