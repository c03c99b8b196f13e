# SPDX-License-Identifier: GPL-2.0-or-later
"""Words for problems of what macros register with the kernel at start-up: trace events and module parameters.

The tools find the variables, functions and sections that the macros make (include/trace/stages, include/linux/
moduleparam.h), and no reader of a patch knows those names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from elivepatch.model.codes import problem
from elivepatch.model.errors import Problem
from elivepatch.patch.locate import ChangedLine

_TEXT = re.compile(r"\b(?:print_fmt_|text of the trace event )(\w+)")
_FUNCTION = re.compile(r"\b(?:trace_event_raw_event|perf_trace|trace_raw_output|__bpf_trace|__traceiter)_(\w+)")
_EVENT_TABLES = re.compile(
    r"(?<![\w.])\.?(?:__tracepoints\w*|_ftrace_events|__bpf_raw_tp_map)\b|changes a trace event;"
)
_SOURCE = re.compile(r"(\S+\.c)\b")
_NEW_EVENT = re.compile(r"\s*(?:TRACE_EVENT|DEFINE_EVENT|DECLARE_TRACE)\w*\(\s*(?:\w+\s*,\s*(?=\w+\s*,\s*$))?(\w+)")
_PARAMETERS = re.compile(r"(?<![\w.])\.?__param\b|changes a module parameter;")
_NEW_PARAMETER = re.compile(r"\s*(?:core_|late_)?(?:module_)?param\w*\(\s*(\w+)")


def in_words_of_macros(found: Problem, changed: Iterable[ChangedLine], defined: Callable[[str], bool]) -> Problem:
    """Return the problem as `trace-event` or `module-parameter` if it is about what such a macro makes.

    `defined` says if a source that the problem may be about defines a function of a name itself.
    """
    source = one[1] if (one := _SOURCE.search(found.message)) else "The series"
    if text := _TEXT.search(found.message):
        sentence = f"{source} changes the text of the trace event {text[1]}, which the kernel has registered."
        return problem("trace-event", sentence, excerpt=found.excerpt)
    if (function := _FUNCTION.search(found.message)) and not defined(function[0]):
        sentence = (
            f"{function[0]} in {source} is a function of the trace event {function[1]}: its macro makes it notrace, "
            f"so it cannot be replaced."
        )
        return problem("trace-event", sentence, excerpt=found.excerpt)
    if _EVENT_TABLES.search(found.message):
        names = _added(_NEW_EVENT, changed)
        what = f"adds the trace event {names}" if names else "changes the kernel's table of trace events"
        sentence = f"{source} {what}, and a livepatch cannot register trace events."
        return problem("trace-event", sentence, excerpt=found.excerpt)
    if _PARAMETERS.search(found.message):
        names = _added(_NEW_PARAMETER, changed)
        what = f"adds the module parameter {names}" if names else "changes module parameters"
        sentence = f"{source} {what}, and the kernel reads parameters only when it starts or loads a module."
        return problem("module-parameter", sentence, excerpt=found.excerpt)
    return found


def _added(pattern: re.Pattern[str], changed: Iterable[ChangedLine]) -> str:
    found = (pattern.match(line.text) for line in changed if line.sign == "+")
    return ", ".join(dict.fromkeys(one[1] for one in found if one))
