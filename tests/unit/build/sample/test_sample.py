# SPDX-License-Identifier: GPL-2.0-or-later
"""A new base is not believed: a sample of its functions is compared with the kernel, and each must be the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.sample.fidelity import FUNCTIONS, Sample, sampled
from elivepatch.kernel.compile_units import Unit, Units
from elivepatch.model.errors import EnvironmentFault


def units(*, kernel: int, modules: int) -> Units:
    named = {f"kernel/k{n}.c": ("vmlinux",) for n in range(kernel)}
    named |= {f"drivers/m{n}.c": (f"m{n}",) for n in range(modules)}
    named |= {"arch/x86/entry/entry.S": ("vmlinux",), ".vmlinux.export.c": ("vmlinux",)}
    return Units({source: Unit(source, f"{source[:-2]}.o", parents) for source, parents in named.items()}, {})


def test_half_of_a_batch_is_of_vmlinux_and_half_of_modules() -> None:
    first = next(sampled(units(kernel=1000, modules=1000), "ab"))
    assert [unit.parents == ("vmlinux",) for unit in first] == [True, False] * (len(first) // 2)


@given(st.integers(0, 40), st.integers(0, 40))
def test_every_object_of_a_small_kernel_is_drawn_once_and_what_is_no_c_source_never(kernel: int, modules: int) -> None:
    drawn = [unit.source for batch in sampled(units(kernel=kernel, modules=modules), "ab") for unit in batch]
    assert len(drawn) == len(set(drawn)) == min(kernel + modules, 48)
    assert all(source.endswith(".c") and not source.startswith(".") for source in drawn)


def test_the_build_id_alone_decides_what_is_drawn() -> None:
    found = units(kernel=500, modules=500)
    assert list(sampled(found, "ab")) == list(sampled(found, "ab"))
    assert next(sampled(found, "ab")) != next(sampled(found, "cd"))


def row(functions: int, **more: Any) -> dict[str, Any]:
    return {"parent": "vmlinux", "way": "make", "functions": functions, "identical": functions, "same": True} | more


def refusal(**rows: dict[str, Any]) -> EnvironmentFault:
    sample = Sample("6.1-own")
    sample.add({f"fs/{name}.c": one for name, one in rows.items()})
    with pytest.raises(EnvironmentFault) as caught:
        sample.judged()
    return caught.value


def seen(match: str, section: str = ".text") -> dict[str, Any]:
    return {"match": match, "section": section, "sizes": [16, 24], "weak": False}


def test_a_sample_in_which_everything_compares_is_counted() -> None:
    sample = Sample("6.1-own")
    sample.add({"fs/a.c": row(150), "fs/b.c": row(60), "fs/c.c": {"parent": "vmlinux", "way": "none", "failed": "no"}})
    assert sample.functions >= FUNCTIONS
    assert sample.judged() == {"objects": 2, "functions": 210, "identical": 210, "failed": 1}


def test_a_function_that_the_kernel_does_not_have_by_rule_is_not_counted() -> None:
    weak = {"other": seen("weak"), "cleanup": seen("absent", ".exit.text")}
    sample = Sample("6.1-own")
    sample.add({"fs/a.c": row(202, identical=200, exceptions=weak)})
    assert sample.judged()["functions"] == 200


@pytest.mark.parametrize("match", ["differs", "refers", "absent"])
def test_one_function_that_differs_refuses_the_base_and_is_named(match: str) -> None:
    fault = refusal(a=row(200, identical=199, exceptions={"open_file": seen(match)}))
    assert fault.problem.code == "base-fidelity"
    assert "Of 200 functions" in fault.problem.message
    assert f"fs/a.c: open_file ({match})" in fault.problem.message


def test_all_functions_that_differ_are_named() -> None:
    wrong = {f"function_{number}": seen("differs") for number in range(30)}
    fault = refusal(a=row(230, identical=200, exceptions=wrong))
    assert len(fault.problem.excerpt.splitlines()) == 30
    assert "and 27 more" in fault.problem.message


def test_an_object_that_is_not_found_in_the_kernel_refuses_the_base() -> None:
    fault = refusal(a=row(200), b=row(9, identical=0, unlocated="symbols: vmlinux holds no object"))
    assert "fs/b.c: symbols" in fault.problem.message


def test_an_object_that_the_kernel_has_twice_says_nothing_about_the_base() -> None:
    sample = Sample("6.1-own")
    sample.add({"fs/a.c": row(200), "fs/b.c": row(9, identical=0, unlocated="duplicate-symbol: vmlinux holds 2")})
    assert sample.judged()["functions"] == 200


def test_an_object_that_make_makes_otherwise_than_its_saved_command_refuses_the_base() -> None:
    fault = refusal(a=row(200), b=row(9, same=False))
    assert fault.problem.code == "saved-command-differs"
    assert "fs/b.c" in fault.problem.message


@pytest.mark.parametrize(
    "rows",
    [
        {"a": row(49)},
        {"a": {"parent": "vmlinux", "way": "none", "failed": "no"}},
        {"a": {key: value for key, value in row(300).items() if key != "same"}},
    ],
)
def test_a_base_of_which_too_little_could_be_compared_is_refused(rows: dict[str, Any]) -> None:
    assert refusal(**rows).problem.code == "base-fidelity"
