# SPDX-License-Identifier: GPL-2.0-or-later
"""A CVE whose fix is asked for, for the tests of the places of fixes."""

from __future__ import annotations

from elivepatch.advisory.exposure.version import listed_version, parse_kernel_version
from elivepatch.advisory.fixes.fixes import Fix, Wanted, WantedCommit

NAME = "CVE-2030-20001"
KERNEL = parse_kernel_version("6.1.100")
DIFF = b"--- a/lamp.c\n+++ b/lamp.c\n@@ -1 +1 @@\n-dark\n+light\n"


def wanted(*commits: tuple[str, str], cve: str = NAME) -> Wanted:
    made = []
    for commit, text in commits:
        version = listed_version(text)
        assert version is not None
        made.append(WantedCommit(id=commit, version=version))
    return Wanted(cve=cve, kernel=KERNEL, commits=tuple(made))


def names(fix: Fix | None) -> list[str]:
    assert fix is not None
    return [patch.name for patch in fix.patches]
