# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of klp-build, and of the tools that it calls, when they fail: their meaning as problems."""

from __future__ import annotations

import re

from elivepatch.build.objects.messages import error_lines, file_with_error, modpost_problem
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import Problem
from elivepatch.process import Completed

_NAME = r"\.?([^\s.:+]+)\S*"
# A message of `objtool klp diff` (tools/objtool/klp-diff.c), the code, and the sentence.
_RULES = (
    (
        re.compile(rf"unsupported static branch key {_NAME}"),
        "jump-label",
        "A changed function tests the static key {0}.",
    ),
    (re.compile(r"unsupported static call key"), "static-call", "A changed function makes a static call of a module."),
    (re.compile(rf"changed data: {_NAME}"), "data-change", "The series changes the data {0}."),
    (
        re.compile(r"FILE symbol mismatch: (\S+) != (\S+)"),
        "new-file",
        "The series adds or removes an object ({0}, {1}).",
    ),
)
_SWITCHED_OFF = re.compile(r"(?m)(\S+): disabling unsupported (tracepoint \S+|pr_debug\(\))")
_NO_CHANGE = "no changes detected"


def not_compiled(done: Completed) -> Problem:
    """Return why the patched kernel could not be compiled."""
    said = done.log.decode(errors="replace")
    if done.timed_out:
        return problem("out-of-time", "Compiling the kernel took too long.", excerpt=done.tail())
    where = file_with_error(said) or "The kernel"
    excerpt = error_lines(said) or done.tail()
    return problem("compile-error", f"{where} does not compile with the series.", excerpt=excerpt)


def not_made(done: Completed, *, release: str) -> Problem:
    """Return why klp-build made no module for the kernel `release`."""
    said = done.text + done.log.decode(errors="replace")
    excerpt = error_lines(said) or done.tail()
    if done.timed_out:
        return problem("out-of-time", "Comparing the kernels took too long.", excerpt=excerpt)
    for pattern, code, sentence in _RULES:
        if found := pattern.search(said):
            return problem(code, sentence.format(*found.groups()), excerpt=excerpt)
    if _NO_CHANGE in said:
        return problem("no-change", "The compiled code is the same with and without the series.")
    if (found_by_modpost := modpost_problem(said, release=release)) is not None:
        return found_by_modpost
    return problem("diff-tool", "klp-build failed.", excerpt=excerpt)


def switched_off(done: Completed) -> tuple[Note, ...]:
    """Return a note for each tracepoint and debug message of a module that prints nothing in the new code."""
    found = dict.fromkeys(_SWITCHED_OFF.findall(done.text + done.log.decode(errors="replace")))
    return tuple(
        Note(code="left-out", message=f"The {what} of {function} stays silent: the module's own switch cannot be used.")
        for function, what in found
    )
