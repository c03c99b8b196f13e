# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of enumerators that count others differ from those of states and commands."""

from __future__ import annotations

import pytest
from c_types import types_of

from elivepatch.build.checks.layout.enumerators import compare_enumerators, is_counting
from elivepatch.kernel.btf import read_btf

USE = "enum all {{ {} }};\nenum all value;\n"


def renumbered(old: str, new: str) -> list[tuple[str, bool]]:
    pair = (read_btf(types_of(USE.format(text))) for text in (old, new))
    return [(one.name, one.counts) for one in compare_enumerators(*pair)]


@pytest.mark.parametrize(
    "name",
    ["NR_STATES", "STATE_MAX", "__NL_ATTR_AFTER_LAST", "NUM_ATTR", "KVM_NR_BUSES", "MAX_NR_ZONES", "TYPE_COUNT", "E_N"],
)
def test_names_that_count(name: str) -> None:
    assert is_counting(name)


@pytest.mark.parametrize("name", ["Lo_bound", "TCP_LAST_ACK", "CMD_GET_NUM_QUEUES", "QOS_MAX_LATENCY", "ENUM", "_", ""])
def test_names_that_do_not_count(name: str) -> None:
    assert not is_counting(name)


def test_a_last_number_and_a_count_may_both_follow_the_others() -> None:
    old = "A, B, __ALL_AFTER_LAST, ALL_MAX = __ALL_AFTER_LAST - 1"
    assert renumbered(old, old.replace("B,", "B, C,")) == [("ALL_MAX", True), ("__ALL_AFTER_LAST", True)]


def test_a_number_that_others_follow_counts_nothing() -> None:
    assert renumbered("A, B_MAX, C = 9", "A, B, B_MAX, C = 9") == [("B_MAX", False)]


def test_states_come_before_counts() -> None:
    assert renumbered("A, B, ALL_MAX", "NEW, A, B, ALL_MAX") == [("A", False), ("B", False), ("ALL_MAX", True)]


def test_an_enumerator_that_two_enumerations_have_belongs_to_both() -> None:
    local = "int use(void) {{ enum {{ A = 7 }} mine = A; return mine; }}\n"
    old, new = (read_btf(types_of(text)) for text in (USE.format("A, B"), USE.format("A, B") + local.format()))
    assert compare_enumerators(old, new) == []
