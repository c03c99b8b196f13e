# SPDX-License-Identifier: GPL-2.0-or-later
"""A stranger chooses the text of a patch, so each reader is fed 1 MiB of the worst and has to stay linear.

The limit is processor time and generous: a linear reader needs seconds, the mildest quadratic one ten minutes.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.checks.layout.statics import retyped
from elivepatch.build.checks.prototypes import signature
from elivepatch.kernel.config import parse_config
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, UsageError
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch import headings
from elivepatch.patch.additions import read_additions
from elivepatch.patch.c_source import DefinitionKind, blanked, enclosing, read_definitions
from elivepatch.patch.header_names import changed_names
from elivepatch.patch.initialiser import read_members
from elivepatch.patch.lines import preserve
from elivepatch.patch.locate import changed_lines
from elivepatch.patch.parse import read_series
from elivepatch.patch.places import follow
from elivepatch.patch.rewrite.data import kept_static_local, plain_variables
from elivepatch.patch.rewrite.edits import Source

SIZE = 1 << 20
LIMIT_S = 30


class TooSlow(BaseException):
    """The reader used up its time."""


@contextmanager
def in_time(limit_s: float = LIMIT_S) -> Iterator[None]:
    """Stop the code inside after `limit_s` seconds of processor time; Python's `re` looks at signals too."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def filled(piece: str) -> str:
    return (piece * (SIZE // len(piece) + 1))[:SIZE]


def series_of(*texts: str) -> PatchSeries:
    """Return a series whose patches add the texts to one file, each behind its first line."""
    return PatchSeries(tuple(SourcePatch(f"{number}.patch", _diff(text)) for number, text in enumerate(texts)))


def _diff(text: str) -> bytes:
    lines = text.split("\n")
    head = f"--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1 +1,{len(lines) + 1} @@\n first\n"
    return (head + "".join(f"+{line}\n" for line in lines)).encode()


def read_heading(text: str) -> None:
    line = text.replace("\n", " ")
    headings.is_label(f"case {line}")
    headings.agree(line, f"{line}x")


def read_signature(text: str) -> None:
    for one in read_definitions(f"int f({text})\n{{\n}}\n"):
        if one.kind is DefinitionKind.FUNCTION:
            signature(one)


def read_statics(text: str) -> None:
    list(retyped(text, f"{text}\n\tstatic int more;\n"))


def read_patches(text: str) -> None:
    half = text[: SIZE // 4]
    series = series_of(half, half)
    touched = read_series(series)
    read_additions(series, touched)
    known = read_definitions(text)
    list(changed_lines(follow(series, lambda _path: "first\n"), lambda _path: known))


def read_edits(text: str) -> None:
    changed_names(Source(path="x.h", old=f"int old;\n{text}", new=f"{text}\nint new;\n"))


def rewrite_data(text: str) -> None:
    source = Source(path="x.c", old=f"int f(void)\n{{\n{text}\n}}\n", new=f"int f(void)\n{{\n}}\nint new =\n{text};\n")
    kept_static_local(problem("static-local", "f in x.c no longer uses its static variable seen."), {"x.c": source})
    plain_variables(problem("new-data", "x.c adds new."), {"x.c": source})


def read_configuration(text: str) -> None:
    parse_config(f'CONFIG_A="{text}'.encode())


WORST: list[tuple[Callable[[str], object], str]] = [
    (blanked, '\\"'),
    (blanked, "'a"),
    (read_definitions, "a b\n"),
    (read_definitions, "a)\n"),
    (read_definitions, "a(\n"),
    (read_definitions, "a{}"),
    (read_definitions, "f() __a() "),
    (read_definitions, "(*a["),
    (read_definitions, "["),
    (read_heading, "a"),
    (read_heading, "a["),
    (read_heading, " "),
    (read_members, "x = {,"),
    (read_members, ".a"),
    (read_signature, "__a() "),
    (read_signature, "a["),
    (read_statics, "\tstatic a "),
    (read_patches, "\n"),
    (read_patches, "a b\n"),
    (lambda text: preserve(text, []), '"\\'),
    (read_edits, "\n"),
    (read_edits, "#define a\nb\n"),
    (rewrite_data, "\n"),
    (rewrite_data, "static a\n"),
    (read_configuration, '\\"'),
]


@pytest.mark.parametrize(("read", "piece"), WORST)
def test_the_worst_mebibyte_of_a_reader_takes_no_longer_than_seconds(read: Callable[[str], object], piece: str) -> None:
    # A refusal is an answer.
    with in_time(), suppress(BuildStopped, UsageError):
        read(filled(piece))


def test_the_time_limit_of_these_tests_stops_a_quadratic_pattern() -> None:
    with pytest.raises(TooSlow), in_time(0.2):
        re.sub(r'"(?:\\.|[^"\\])*"', "", '\\"' * 20_000)


def test_a_literal_over_several_lines_moves_no_line() -> None:
    text = 'int a = f("one \\\ntwo");\nint b;\n'
    assert blanked(text).count("\n") == text.count("\n")
    assert [one.start for one in read_definitions(text)] == [1, 3]


@given(st.text(alphabet="\"'\\\n/* ab{;", max_size=60))
def test_hidden_text_keeps_its_place(text: str) -> None:
    hidden = blanked(text)
    assert len(hidden) == len(text)
    assert [at for at, one in enumerate(hidden) if one == "\n"] == [at for at, one in enumerate(text) if one == "\n"]


def test_a_literal_that_is_not_closed_ends_with_its_line() -> None:
    assert blanked("#error don't { here\nint b;\n").split("\n") == ["#error don'" + " " * 8, "int b;", ""]


@pytest.mark.parametrize(("line", "name"), [(1, "a"), (2, "b"), (3, None), (4, "c"), (5, None)])
def test_the_item_of_a_line_is_found(line: int, name: str | None) -> None:
    found = enclosing(read_definitions("int a; int a2;\nint b;\n\nint c;\n"), line)
    assert (found and found.name) == name


def test_files_whose_lines_repeat_without_end_are_one_change() -> None:
    blank = "\n\n\n"
    old = "".join(f"{blank}old{number}\n" for number in range(1500))
    with in_time():
        (edit,) = Source(path="x", old=f"same\n{old}", new=f"same\n{old.replace('old', 'new')}").edits
    assert (edit.old_start, edit.new_start) == (5, 5)
