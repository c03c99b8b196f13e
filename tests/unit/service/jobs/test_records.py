# SPDX-License-Identifier: GPL-2.0-or-later
"""The signed statement gets the outcome of the trial that the report has, and nothing beyond it."""

from __future__ import annotations

from typing import Any

import pytest

from elivepatch.service.jobs.records import stated_trial
from elivepatch.trust.statement import StatedTrial


@pytest.mark.parametrize(
    ("report", "stated"),
    [
        (None, StatedTrial(outcome="none")),
        ({"passed": True}, None),
        ({"passed": True, "outcome": "passed", "not_live": []}, StatedTrial(outcome="passed")),
        (
            {"passed": False, "outcome": "partly", "not_live": [{"object": "kvm_intel", "why": "-"}]},
            StatedTrial(outcome="partly", not_live=("kvm_intel",)),
        ),
    ],
)
def test_the_statement_has_the_outcome_that_the_report_has(
    report: dict[str, Any] | None, stated: StatedTrial | None
) -> None:
    assert stated_trial(report) == stated
