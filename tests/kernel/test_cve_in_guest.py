# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch auto` on a running host: Debian 12 in a VM, its own stock kernel, a real server, real CVEs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from guest_host import Boot, GuestHost
from real_server import Server

from elivepatch.build.base.store import Base
from elivepatch.service import cli

SHARED = Path(__file__).parents[3] / "shared/data"
FIXES = SHARED / "cve-fixes-6.1.176"

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.extended,
    pytest.mark.skipif(not FIXES.is_dir(), reason="the collection of real fixes is not there"),
]

POLICY = '[[fixes]]\ndirectory = "/root/fixes"\n'
SCRIPT = """
network
step enroll elivepatch enroll "$URL" --fingerprint "$FINGERPRINT" --json
step update elivepatch cve update --json
step before elivepatch cve summary --json
step auto elivepatch auto --json
step live ls /sys/kernel/livepatch
step functions sh -c 'ls -d /sys/kernel/livepatch/*/*/*,*'
step taint cat /proc/sys/kernel/tainted
step summary elivepatch cve summary --json
step closed elivepatch cve list --closed --json
step people elivepatch cve summary
step again elivepatch auto
step record elivepatch status --json
step rollback elivepatch rollback --json
for seconds in 3 6 9 12 15; do
    timeout -s KILL $seconds elivepatch auto >/dev/null 2>&1
done
step after_kills elivepatch auto
step functions_after sh -c 'ls -d /sys/kernel/livepatch/*/*/*,*'
step summary_after elivepatch cve summary --json
step taint_after cat /proc/sys/kernel/tainted
systemctl reboot
"""


@pytest.fixture(scope="module")
def boot(
    server: Server,
    variables: str,
    client: dict[str, bytes],
    host_of: Callable[[Base], GuestHost],
    base_6_1: Base,
    tmp_path_factory: pytest.TempPathFactory,
) -> Boot:
    """One boot of a host with a policy, the CVE list and sixty fixes."""
    place = tmp_path_factory.mktemp("cve")
    policy = place / "policy.toml"
    index = ["cve", "index", "--state", str(server.state), "--records", str(SHARED / "vulns-sample.tar.xz")]
    assert cli.main(index) == 0
    # The server makes up its mind before: the guest's processor is emulated, and its waiting would be all there is.
    policy.write_text(POLICY.replace("/root/fixes", str(FIXES)))
    status, _, told = server.run(
        "cve", "close", "--kernel", base_6_1.release, "--policy", policy, "--keep", place / "keep",
        "-o", place / "x.ko", timeout_s=900,
    )  # fmt: skip
    assert status == 0, told
    files = client | {
        "etc/elivepatch/policy.toml": POLICY.encode(),
        **{f"root/fixes/{path.name}": path.read_bytes() for path in FIXES.glob("*.patch")},
    }
    seen = host_of(base_6_1).boot("cve", variables + SCRIPT, files, timeout_s=540)
    for key, step in seen.steps.items():
        sys.stderr.write(f"{key}: {step.ended_s - step.began_s:.1f} s in the guest\n")
    return seen


def test_auto_closes_everything_convertible_with_one_livepatch(boot: Boot) -> None:
    assert boot["auto"].status == 0, boot["auto"].err
    document = boot["auto"].document
    assert len(document["closed_now"]) >= 15
    assert document["left_out"] == []
    assert document["applied"]["loaded"] is True
    assert boot["live"].out.split() == [document["livepatch"]["name"]]
    functions = boot["functions"].out.split()
    assert len(functions) == document["livepatch"]["functions"]


def test_the_kernel_runs_on_without_a_warning(boot: Boot) -> None:
    # Documentation/admin-guide/tainted-kernels.rst: a livepatch (15) that is not of the tree (12) and not signed (13).
    assert int(boot["taint"].out) & ~(1 << 12 | 1 << 13 | 1 << 15) == 0
    assert "WARNING:" not in boot.console
    assert "BUG:" not in boot.console


def test_the_summary_shows_them_closed_and_the_rest_open(boot: Boot) -> None:
    before, after = boot["before"].document["funnel"], boot["summary"].document["funnel"]
    closed = boot["auto"].document["closed_now"]
    assert (before["closed"], after["closed"]) == (0, len(closed))
    assert after["open"] == after["built"]["yes"] + after["built"]["unknown"] - len(closed)
    assert re.search(rf"closed by livepatches +{len(closed)}\n", boot["people"].out)
    listed = {one["id"]: one["closed"]["functions"] for one in boot["closed"].document}
    assert sorted(listed) == sorted(closed)
    assert all(listed.values())


def test_a_second_run_changes_nothing_and_says_so_in_one_line(boot: Boot) -> None:
    assert boot["again"].status == 0
    assert boot["again"].out.startswith("Nothing to do on Linux 6.1.176")
    assert boot["again"].err == ""
    assert boot["record"].document is not None


def test_killed_again_and_again_it_ends_in_the_same_state(boot: Boot) -> None:
    assert boot["rollback"].status == 0
    assert boot["after_kills"].status == 0, boot["after_kills"].err
    # The first livepatch stays in memory, because it hands a function to RCU: this is a copy with another name.
    before, after = (
        [line.split("/", 5) for line in boot[key].out.splitlines()] for key in ("functions", "functions_after")
    )
    assert [one[5] for one in after] == [one[5] for one in before]
    assert len({one[4] for one in (*before, *after)}) == 2
    assert boot["summary_after"].document["funnel"] == boot["summary"].document["funnel"]
    assert boot["taint_after"].out == boot["taint"].out
