# SPDX-License-Identifier: GPL-2.0-or-later
"""A function keeps its arguments unless the table says that it does not."""

from __future__ import annotations

import pytest

from elivepatch.build.escapes.keepers import changes_no_register, keeps, returns_argument


@pytest.mark.parametrize("name", ["mod_timer", "call_rcu", "request_threaded_irq", "nobody_knows_it", ""])
def test_an_unknown_function_keeps_every_argument(name: str) -> None:
    assert all(keeps(name, position) for position in range(8))


@pytest.mark.parametrize("name", ["_printk", "seq_printf", "mutex_lock", "strcmp", "strchr", "sort", "__fentry__"])
def test_a_function_that_prints_compares_or_locks_keeps_nothing(name: str) -> None:
    assert not any(keeps(name, position) for position in range(8))


def test_some_keep_the_function_and_not_the_name() -> None:
    assert [keeps("kthread_create_on_node", position) for position in range(5)] == [True, True, False, False, False]


def test_results_that_lead_into_arguments_and_calls_that_are_no_calls_are_known() -> None:
    assert (returns_argument("strchr"), returns_argument("strlen")) == (True, False)
    assert (changes_no_register("__fentry__"), changes_no_register("_printk")) == (True, False)
