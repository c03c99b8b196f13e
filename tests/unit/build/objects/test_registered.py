# SPDX-License-Identifier: GPL-2.0-or-later
"""Problems of trace events and module parameters are described in the words of their macros."""

from __future__ import annotations

import pytest

from elivepatch.build.objects.diff import classify
from elivepatch.build.objects.registered import in_words_of_macros
from elivepatch.model.codes import problem
from elivepatch.model.errors import Problem
from elivepatch.patch.locate import ChangedLine
from elivepatch.process import Completed


def added(text: str) -> ChangedLine:
    return ChangedLine(path="fs/locks.c", number=1, sign="+", text=text, inside=None)


def told(code: str, message: str, *lines: str, defined: bool = False) -> Problem:
    return in_words_of_macros(problem(code, message), [added(line) for line in lines], lambda _name: defined)


def test_the_text_of_a_trace_event_is_called_that() -> None:
    found = told("data-layout", "fs/locks.c changes the size of the variable print_fmt_generic_add_lease.")
    assert found.code == "trace-event"
    assert found.message == (
        "fs/locks.c changes the text of the trace event generic_add_lease, which the kernel has registered."
    )


@pytest.mark.parametrize("function", ["trace_event_raw_event_add", "perf_trace_add", "trace_raw_output_add"])
def test_a_function_of_a_trace_event_is_notrace_by_its_macro(function: str) -> None:
    found = told("no-function-entry", f"{function} in fs/locks.c has no patchable entry.")
    assert found.code == "trace-event"
    assert f"{function} in fs/locks.c is a function of the trace event add" in found.message
    assert "notrace" in found.message


def test_a_function_of_that_name_that_the_source_defines_is_no_macros() -> None:
    found = problem("no-function-entry", "perf_trace_init in kernel/trace/trace_event_perf.c has no patchable entry.")
    assert in_words_of_macros(found, [], lambda name: name == "perf_trace_init") == found


@pytest.mark.parametrize("section", ["__tracepoints_ptrs", "__tracepoints", "_ftrace_events", "__bpf_raw_tp_map"])
@pytest.mark.parametrize(
    "line", ["TRACE_EVENT(brand_new,", "DEFINE_EVENT(lease, brand_new,", "TRACE_EVENT_CONDITION(brand_new,"]
)
def test_a_new_trace_event_cannot_be_registered(section: str, line: str) -> None:
    found = told("data-change", f"fs/locks.c changes initialised data: {section}.", line)
    assert found.code == "trace-event"
    assert found.message == ("fs/locks.c adds the trace event brand_new, and a livepatch cannot register trace events.")


@pytest.mark.parametrize("line", ["module_param(extra_time, int, 0644);", "module_param_named(extra_time, t, int, 0);"])
def test_a_new_module_parameter_is_called_that(line: str) -> None:
    found = told("data-change", "fs/locks.c changes initialised data: __param.", line)
    assert found.code == "module-parameter"
    assert "adds the module parameter extra_time" in found.message


def said(text: str, *lines: str) -> Problem:
    done = Completed(argv=(), status=1, output=text.encode(), log=b"", seconds=0.1, timed_out=False)
    return in_words_of_macros(classify(done, "fs/locks.c"), [added(line) for line in lines], lambda _name: False)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("object size mismatch: print_fmt_lease", "trace-event", "changes the text of the trace event lease"),
        ("changed section .rela__tracepoints_ptrs not selected for inclusion", "trace-event", "trace event fresh"),
        ("changed section _ftrace_events not selected for inclusion", "trace-event", "trace event fresh"),
        ("changed section __param not selected for inclusion", "module-parameter", "module parameter limit"),
        ("function perf_trace_lease doesn't have patchable function entry", "trace-event", "perf_trace_lease"),
    ],
)
def test_the_messages_of_the_tools_get_these_words(text: str, code: str, words: str) -> None:
    found = said(f"ERROR: in/original.o: {text}", "TRACE_EVENT(fresh,", "module_param(limit, int, 0644);")
    assert found.code == code
    assert words in found.message


@pytest.mark.parametrize("name", ["lease_param", "x__param", "event_list", "my__tracepoints"])
def test_other_data_keeps_its_words(name: str) -> None:
    found = problem("data-change", f"fs/locks.c changes initialised data: {name}.")
    assert in_words_of_macros(found, [], lambda _name: False) == found
