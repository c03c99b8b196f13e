# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of a workload: counts of calls are exact or unknown, and what became of a program is no verdict."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.build import PatchedFunction
from elivepatch.model.errors import Kind
from elivepatch.model.trial import WorkloadRun
from elivepatch.trial.guest_protocol import Records, parse
from elivepatch.trial.workload import guest_records
from elivepatch.trial.workload.choice import Chosen, Program
from elivepatch.trial.workload.guest_files import Workload

SCOPE = "000000"
OOPS = b"<4>[    5.0] WARNING: CPU: 0 PID: 9 at mm/x.c:5 f+0x5/0x10\n"


def records(**content: bytes) -> Records:
    lines = [f"{SCOPE} begin "]
    lines += [f"{SCOPE} {name.replace('_', '.')} {base64.b64encode(one).decode()}" for name, one in content.items()]
    return parse("\n".join([*lines, ""]).encode())


def workload(*functions: str, programs: tuple[str, ...] = (), **more: Any) -> Workload:
    return Workload(
        functions=tuple(PatchedFunction(object="vmlinux", name=one, sympos=0, source="fs/x.c") for one in functions),
        programs=tuple(
            Chosen(program=Program(name=one, file="x.sh", sources=("*",), what="x"), arguments=()) for one in programs
        ),
        **more,
    )


def counted(text: str, *functions: str) -> list[int | None]:
    found = guest_records.calls(SCOPE, workload(*functions), records(counts=text.encode()))
    assert [one.function for one in found] == list(functions)
    return [one.calls for one in found]


def test_hits_and_missed_hits_of_a_kprobe_are_calls() -> None:
    text = "kprobe\n  f000                          12               3\n  elivepatch:f001        0    0\n"
    assert counted(text, "f", "g") == [15, 0]


def test_a_function_without_a_probe_was_not_counted_which_is_not_zero() -> None:
    assert counted("kprobe\n  f001   7   0\n", "f", "g") == [None, 7]


@pytest.mark.parametrize("text", ["none\n", "", "kprobe", "kprobe\n\n", "tracer", "else\n f000 5 0\n"])
def test_without_a_way_to_count_nothing_is_counted(text: str) -> None:
    assert counted(text, "f") == [None]


def test_two_functions_of_one_name_are_not_told_apart() -> None:
    assert counted("kprobe\n f000 5 0\n f001 5 0\n f002 1 0\n", "f", "f", "g") == [None, None, 1]


def test_the_tracer_knows_who_never_ran_only_if_its_buffer_held_everything() -> None:
    filtered = "tracer\ntraced f\ntraced g\n"
    assert counted(f"{filtered}overrun: 0\ndropped events: 0\nf 5\n", "f", "g") == [5, 0]
    assert counted(f"{filtered}overrun: 0\ndropped events: 9\nf 5\n", "f", "g") == [5, None]
    assert counted("tracer\ntraced f\noverrun: 0\nf 5\n", "f", "g") == [5, None]


@given(st.binary(max_size=300))
def test_any_bytes_give_a_count_or_none(garbage: bytes) -> None:
    for method in (b"kprobe\n", b"tracer\n", b""):
        found = guest_records.calls(SCOPE, workload("f", "g"), records(counts=method + garbage))
        assert all(one.calls is None or 0 <= one.calls < 2**63 for one in found)


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**6)), max_size=20))
def test_every_count_that_the_guest_writes_is_read_back(counts: list[tuple[int, int]]) -> None:
    text = "kprobe\n" + "".join(
        f"  f{number:03}{hits:>30}{missed:>16}\n" for number, (hits, missed) in enumerate(counts)
    )
    assert counted(text, *[f"f{number}" for number in range(len(counts))]) == [hits + missed for hits, missed in counts]


def test_what_became_of_a_program_is_told_for_each_phase() -> None:
    said = records(worked_before=b"120 well\nx 0 \ny 0 \n", worked_during=b"250 well\nx 137 \ny 1 no  loop\n",
                   worked_after=b"30 well\nx - \n")  # fmt: skip
    asked = workload("f", programs=("x", "y"), left_out=(("z", "tc"),))
    assert guest_records.runs(SCOPE, asked, said) == (
        WorkloadRun(name="x", before="ran", during="stopped", after="not-run"),
        WorkloadRun(name="y", before="ran", during="failed", after="not-run", words="no loop"),
        WorkloadRun(name="z", before="not-run", during="not-run", after="not-run", words="this server has no tc"),
    )
    assert guest_records.seconds(SCOPE, said) == 4.0
    assert guest_records.complete(SCOPE, asked, records(counts=b"kprobe\n")) is False


def test_a_workload_that_troubles_the_unpatched_kernel_is_left_out_with_its_reason() -> None:
    asked = workload("f", programs=("x",))
    said = records(log_workload=OOPS, worked_before=b"120 badly\nx 0 \n", counts=b"kprobe\n")
    assert guest_records.left_out(SCOPE, said) == (
        "the unpatched kernel shows trouble under it (WARNING: CPU: 0 PID: 9 at mm/x.c:5 f+0x5/0x10)"
    )
    assert guest_records.complete(SCOPE, asked, said)
    assert guest_records.stages(SCOPE, asked, said) == ("work.before",)


def test_a_guest_that_its_workload_ends_before_the_load_is_no_fault_of_the_patch() -> None:
    asked = workload("f", programs=("x",))
    lost = guest_records.lost_before(SCOPE, asked, records(), "elivepatch: case 000000 work.before\n")
    assert lost is not None
    assert lost.kind is Kind.ERROR
    assert guest_records.lost_before(SCOPE, asked, records(worked_before=b"1 well\n"), "") is None
    assert guest_records.lost_before(SCOPE, workload("f"), records(), "") is None
