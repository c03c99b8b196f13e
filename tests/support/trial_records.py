# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of a trial that went well, and the verdict on changed ones."""

from __future__ import annotations

from pathlib import Path

from elivepatch.model.trial import Expectation
from elivepatch.trial.case import TrialCase
from elivepatch.trial.evidence.judge import GuestEnd, TrialVerdict, judge
from elivepatch.trial.guest_protocol import Records

SCOPE = "000000"
CASE = TrialCase(
    livepatch=Path("x.ko"),
    name="livepatch_x",
    parents=("dummy",),
    expectations=(Expectation(command="/proc/cmdline", pattern="patched"),),
)
PASSED = {
    "begin": b"",
    "module.dummy": b"0\n",
    "before.000": b"0\nas ever\n",
    "log.before": b"",
    "started.1": b"2.50",
    "load.1": b"0\n",
    "settled.1": b"0\n",
    "finished.1": b"3.75",
    "objects.1": b"0\ndummy 1 1\nvmlinux 1 1\n",
    "during.000": b"0\npatched\n",
    "disable.1": b"0\n",
    "gone.1": b"0\n",
    "log.during": b"<5>[    2.5] livepatch: enabling patch 'livepatch_x'\n",
    "after.000": b"0\nas ever\n",
    "log.after": b"",
    "unload.1": b"0\n",
    "load.2": b"0\n",
    "settled.2": b"0\n",
    "again.000": b"0\npatched\n",
    "log.again": b"",
    "removed.dummy": b"0\n",
    "added.dummy": b"0\n",
    "objects.2": b"0\ndummy 1 1\nvmlinux 1 1\n",
    "log.reload": b"",
    "disable.2": b"0\n",
    "gone.2": b"0\n",
    "unload.2": b"0\n",
    "log.rest": b"",
    "done": b"",
}


def verdict(
    values: dict[str, bytes],
    *,
    console: str = "",
    status: int = 0,
    timed_out: bool = False,
    slow: bool = False,
    case: TrialCase = CASE,
) -> TrialVerdict:
    records = Records({(SCOPE, key): value for key, value in values.items()}, 0)
    guest_end = GuestEnd(console=console, status=status, timed_out=timed_out, limit_s=120, slow=slow)
    return judge(SCOPE, case, records, guest_end, ())


def codes(found: TrialVerdict) -> list[str]:
    return [problem.code for problem in found.problems]
