# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that come and go on a running host under a livepatch of them, and a livepatch that refuses by itself.

Each kernel is booted once. The fixture is the boot; the test reads what it left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edits import Edit, patch_of
from guest_host import Boot, GuestHost, config_of, kernel_module
from real_server import Server

from elivepatch.build.base.store import Base
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

VLAN = Path(__file__).parents[2] / "demo/patches/module-8021q.patch"
CHANGED = "VLAN device"
CALLBACK = (
    '#include "kpatch-macros.h"\nstatic int refuses(struct klp_object *object)\n{\n\treturn -ENODEV;\n}\n'
    "KPATCH_PRE_PATCH_CALLBACK(refuses);\n"
)

SCRIPT = """
network
step enroll elivepatch enroll "$URL" --fingerprint "$FINGERPRINT" --json
step doctor elivepatch doctor --json
step apply elivepatch apply /root/module-8021q.patch --no-trial --require-trial none --json
step waiting elivepatch status
name=$(ls /sys/kernel/livepatch)
module=$(ls /root/modules/*8021q.ko)
for one in /root/modules/*.ko; do [ "$one" = "$module" ] || $bb insmod "$one"; done
step come $bb insmod "$module"
step come.config cat /proc/net/vlan/config
step leave $bb rmmod 8021q
step again $bb insmod "$module"
step again.status elivepatch status --json
[ -d /sys/module/8021q ] && $bb rmmod 8021q
step disable elivepatch disable "$name" --json
step back $bb insmod "$module"
step enable elivepatch enable "$name" --json
step enable.config cat /proc/net/vlan/config
step refused elivepatch apply /root/refuses.patch --no-trial --require-trial none --json
step refused.live ls /sys/kernel/livepatch
systemctl reboot
"""


@pytest.fixture
def boot(
    base: Base, host_of: Callable[[Base], GuestHost], server: Server, variables: str, client: dict[str, bytes]
) -> Boot:
    """The day of a host whose module comes and goes."""
    assert server.get("/v1/key").status_code == 200
    include, average = "#include <linux/fs.h>\n", '"%lu.%02lu %lu.%02lu %lu.%02lu %u/%d %d\\n"'
    refuses = patch_of(
        base.tree,
        Edit("fs/proc/loadavg.c", include, include + CALLBACK),
        Edit("fs/proc/loadavg.c", average, average.replace("%d\\n", "%d \\n")),
    )
    files = client | {"root/module-8021q.patch": VLAN.read_bytes(), "root/refuses.patch": refuses.encode()}
    return host_of(base).boot(
        "modules", variables + SCRIPT, files | config_of(base) | kernel_module(guest_kernel(base), "8021q")
    )


def test_a_module_that_comes_and_goes_and_a_livepatch_that_refuses_are_told_right(boot: Boot, base: Base) -> None:
    able = "clear_relocate_add" in base.vmlinux.named
    findings = {one["code"]: one for one in boot["doctor"].document["findings"]}
    assert findings["module-reload"]["level"] == ("ok" if able else "note")
    applied = {one["code"]: one for one in boot["apply"].document["findings"]}
    assert boot["apply"].status == 0, boot["apply"].out
    assert "8021q" in applied["module-reload"]["message"]
    assert applied["module-reload"]["level"] == ("ok" if able else "note")
    assert boot["waiting"].status == 0
    assert "8021q is not loaded, so not patched (1 function)" in boot["waiting"].out
    assert ("refuses to load it" in boot["waiting"].out) is not able

    assert boot["come"].status == 0
    assert CHANGED in boot["come.config"].out, "a module that comes later is patched, on each kernel"
    assert boot["leave"].status == 0
    assert (boot["again"].status == 0) is able, boot["again"].err
    assert boot["again.status"].document["livepatches"][0]["not_loaded"] == ([] if able else ["8021q"])

    assert boot["disable"].status == boot["back"].status == boot["enable"].status == 0, "the way out works"
    assert CHANGED in boot["enable.config"].out

    problem = boot["refused"].document["problem"]
    assert (boot["refused"].status, problem["code"]) == (6, "callback-refused"), problem
    assert "pre-patch callback for vmlinux" in problem["message"]
    assert len(boot["refused.live"].out.split()) == 1
