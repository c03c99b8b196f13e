# SPDX-License-Identifier: GPL-2.0-or-later
"""A livepatch that is loaded while an earlier one is live, reported by the guest's records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trial_records import CASE, PASSED, codes, verdict

from elivepatch.trial.case import EarlierLivepatch

OVER = PASSED | {
    "started.0": b"9.10", "load.0": b"0\n", "settled.0": b"0\n", "finished.0": b"9.90", "started.3": b"9.95",
    "load.3": b"0\n", "settled.3": b"0\n", "finished.3": b"10.50", "live.3": b"0\nlivepatch_x",
    "over.000": b"0\npatched\n",
    "log.over": b"", "disable.3": b"0\n", "gone.3": b"0\n", "unload.3": b"0\n", "unload.0": b"0\n",
}  # fmt: skip
BOTH = replace(CASE, earlier=EarlierLivepatch(livepatch=Path("earlier.ko"), name="livepatch_earlier"))
REFUSED = b"1\ninsmod: can't insert '/trial/case/x/livepatch.ko': Invalid argument"


def without(*prefixes: str) -> dict[str, bytes]:
    return {key: value for key, value in OVER.items() if not key.startswith(prefixes)}


def test_a_livepatch_that_replaces_an_earlier_one_passes() -> None:
    found = verdict(OVER, case=BOTH)
    assert found.problems == ()
    assert found.over_earlier is not None
    assert (found.over_earlier.name, found.over_earlier.result) == ("livepatch_earlier", "replaced")


def test_without_an_earlier_livepatch_nothing_is_said_of_one() -> None:
    assert verdict(PASSED).over_earlier is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"load.3": REFUSED}, "refuses to load the livepatch while livepatch_earlier is live: Invalid argument"),
        ({"settled.3": b"2\n7 (kthreadd)"}, "does not end"),
        ({"live.3": b"0\nlivepatch_earlier\nlivepatch_x"}, "does not replace livepatch_earlier"),
        ({"live.3": b"0\n"}, "nothing is live afterwards"),
        ({"over.000": b"0\nas ever\n"}, "after the livepatch has replaced an earlier one"),
        ({"disable.3": b"1\nbusy"}, "cannot be disabled"),
        ({"gone.3": b"2\n7 (kthreadd)"}, "transition back"),
        ({"unload.3": b"1\nin use"}, "cannot be unloaded"),
    ],
)
def test_each_fault_over_an_earlier_livepatch_is_found(changed: dict[str, bytes], words: str) -> None:
    found = verdict(OVER | changed, case=BOTH)
    assert "trial-over" in codes(found)
    assert any(words in problem.message for problem in found.problems)


def test_trouble_over_an_earlier_livepatch_is_found() -> None:
    found = verdict(OVER | {"log.over": b"<4>[    3.1] WARNING: CPU: 0 PID: 1 at x.c\n"}, case=BOTH)
    assert codes(found) == ["trial-kernel-log"]


def test_a_transition_that_a_busy_machine_did_not_finish_is_no_fault() -> None:
    assert codes(verdict(OVER | {"settled.3": b"2\n"}, case=BOTH, slow=True)) == ["trial-slow"]


def test_an_earlier_livepatch_that_does_not_load_here_is_no_fault() -> None:
    found = verdict(without("settled.0", "finished", "load.3", "settled.3", "live", "over", "log.over", "disable.3",
                            "gone.3", "unload.3", "unload.0") | {"load.0": REFUSED}, case=BOTH)  # fmt: skip
    assert found.problems == ()
    assert found.over_earlier is not None
    assert found.over_earlier.result == "not-tried"
    assert "Invalid argument" in found.over_earlier.words


@pytest.mark.parametrize(
    "lost", ["load.0", "settled.0", "load.3", "live.3", "over.000", "log.over", "gone.3", "unload.3"]
)
def test_a_record_that_is_missing_is_no_success(lost: str) -> None:
    if lost == "load.0":  # then nothing says that the earlier one was not loaded
        assert codes(verdict(without("settled.0", "load.0"), case=BOTH)) == ["trial-lost"]
    else:
        assert codes(verdict(without(lost), case=BOTH)) == ["trial-lost"]
