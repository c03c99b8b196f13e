# SPDX-License-Identifier: GPL-2.0-or-later
"""A hunk changes the function that its author changed, or it is refused with both places."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

import pytest
from edits import series_of
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.model.errors import Problem
from elivepatch.patch.c_source import enclosing, read_definitions
from elivepatch.patch.headings import Headings
from elivepatch.patch.intent import misplaced
from elivepatch.patch.locate import changed_lines
from elivepatch.patch.places import follow
from elivepatch.process import run

PATH = "fs/proc/page.c"


def function(name: str, *body: str) -> str:
    lines = "".join(f"	{line}\n" for line in body)
    return f"static int {name}(int a)\n{{\n{lines}}}\n\n"


READ = ("int b = 0;", "", "if (a)", "	return 1;", "while (a--)", "	b += 2;", "", "return b;")
THREE = "".join(function(name, *READ) for name in ("count_read", "flags_read", "group_read"))


def patch_for(old: str, new: str, *, heading: str | None = None, context: int = 2) -> str:
    """The diff of two texts with the headings of git, or with `heading` for each hunk."""
    found = Headings(old.splitlines())
    lines = list(difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{PATH}", f"b/{PATH}", n=context))
    for at, line in enumerate(lines):
        if line.startswith("@@"):
            first = int(line.split()[1][1:].split(",")[0])
            lines[at] = f"{line.rstrip()} {found.text(first)[:80] if heading is None else heading}".rstrip() + "\n"
    return "".join(lines)


def change(text: str, name: str, *, line: str = "b += 2;", to: str = "b += 3;") -> str:
    before, begin, after = text.partition(f"static int {name}(")
    assert line in after
    return before + begin + after.replace(line, to, 1)


def judged(source: str, patch: str) -> Problem | None:
    files = list(follow(series_of(patch), lambda _path: source))
    assert all(file.unplaced is None for file in files)
    return misplaced(files)


def refusal(source: str, patch: str) -> str:
    found = judged(source, patch)
    assert found is not None
    assert found.code == "hunk-place"
    return found.message


def test_a_hunk_of_one_of_three_like_functions_is_accepted_by_its_heading() -> None:
    assert judged(THREE, patch_for(THREE, change(THREE, "flags_read"))) is None


def test_a_hunk_that_would_land_in_another_function_is_refused_with_both_places() -> None:
    older = THREE.replace(function("count_read", *READ), "")
    patch = patch_for(older, change(older, "flags_read"))
    said = refusal(THREE, patch)
    assert "would land at fs/proc/page.c:6 in count_read, but its heading names flags_read" in said
    assert "fits at fs/proc/page.c:18 in flags_read" in said


def test_a_hunk_whose_function_does_not_have_its_lines_any_more_is_refused() -> None:
    tree = THREE.replace(function("flags_read", *READ), function("flags_read", "return a;"))
    said = refusal(tree, patch_for(THREE, change(THREE, "flags_read")))
    assert "its heading names flags_read" in said
    older = THREE.replace(function("group_read", *READ), "")
    assert "which begins at fs/proc/page.c:13" in refusal(
        function("count_read", *READ) + function("flags_read", "return a;"),
        patch_for(older, change(older, "flags_read")),
    )


def test_a_hunk_whose_function_is_not_there_is_refused() -> None:
    tree = function("count_read", *READ)
    said = refusal(tree, patch_for(THREE, change(THREE, "flags_read")))
    assert "its heading names flags_read, which is not there" in said


def test_an_offset_is_accepted_where_the_heading_agrees() -> None:
    tree = function("other", "return 1;") * 1 + "int counter;\n\n" + THREE
    old = change(THREE, "group_read", line="return 1;", to="return 7;")
    tree = change(tree, "group_read", line="return 1;", to="return 7;")
    assert judged(tree, patch_for(old, change(old, "group_read"))) is None


@pytest.mark.parametrize("prototype", ["static int flags_read(int a, int b)", "int flags_read(long a)"])
def test_another_prototype_of_the_same_function_is_the_same_function(prototype: str) -> None:
    tree = THREE.replace("static int flags_read(int a)", prototype)
    assert judged(tree, patch_for(THREE, change(THREE, "flags_read"))) is None


def test_a_hunk_without_heading_that_fits_twice_is_refused_even_at_its_line() -> None:
    said = refusal(THREE, patch_for(THREE, change(THREE, "flags_read"), heading=""))
    assert "names no function and fits in 3 places: fs/proc/page.c:6 in count_read, fs/proc/page.c:18" in said


def test_the_hash_of_the_file_proves_the_lines() -> None:
    content = THREE.encode()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    patch = patch_for(THREE, change(THREE, "flags_read"), heading="")
    named = f"diff --git a/{PATH} b/{PATH}\nindex {blob[:12]}..0123456789ab 100644\n{patch}"
    assert judged(THREE, named) is None
    assert judged(THREE, named.replace(blob[:12], "0" * 12)) is not None


def test_a_label_as_heading_names_no_function() -> None:
    body = ("if (a)", "	goto out;", "return 1;")
    tail = "out:\n	a += 1;\n	a += 2;\n	a += 3;\n	return a;\n}\n\n"
    text = "".join(function(name, *body).removesuffix("}\n\n") + tail for name in ("first", "second"))
    new = change(text, "second", line="a += 2;", to="a += 4;")
    assert "names no function" in refusal(text, patch_for(text, new, heading="out:", context=1))
    assert judged(text, patch_for(text, new, context=1)) is None


def test_an_offset_into_another_function_needs_a_name() -> None:
    patch = patch_for(
        function("one", "a = 1;", "a = 2;", "a = 3;", "a = 4;", "a = 5;"),
        function("one", "a = 1;", "a = 2;", "a = 33;", "a = 4;", "a = 5;"),
        heading="",
    )
    same = "int early;\n" + function("one", "a = 1;", "a = 2;", "a = 3;", "a = 4;", "a = 5;")
    assert judged(same, patch) is None
    moved = function("zero", "a = 0;", "a = 0;", "a = 0;") + same
    said = refusal(moved, patch)
    assert "would land at fs/proc/page.c:11 in one, but its line number is that of fs/proc/page.c:3 in zero" in said


def test_a_hunk_that_holds_the_beginning_of_its_function_needs_no_heading() -> None:
    old = THREE + function("last", "return 2;")
    new = change(old, "last", line="return 2;", to="return 3;")
    tree = function("zero", "return 0;") + old.replace("group_read", "other_read")
    assert judged(tree, patch_for(old, new, heading="")) is None
    assert judged(tree, patch_for(old, new)) is None


def test_new_lines_between_functions_follow_the_function_behind_them() -> None:
    old = THREE + function("last", "return 2;")
    new = old.replace("static int last(", "int extra;\n\nstatic int last(")
    tree = old.replace("group_read", "other_read")
    assert judged(tree, patch_for(old, new)) is None


def test_hunks_in_like_functions_are_told_apart_by_their_order() -> None:
    two = function("count_read", *READ) + function("flags_read", *READ)
    new = change(change(two, "flags_read"), "count_read")
    assert judged(two, patch_for(two, new, heading="")) is None


def test_a_patch_that_follows_another_counts_lines_from_the_kernels_source() -> None:
    old = function("zero", "return 0;") + function("one", "a = 1;", "a = 2;", "a = 3;", "a = 4;", "a = 5;")
    first = old.replace("	return 0;", "\tint a;\n\tint b;\n\tint c;\n\n\treturn 0;")
    second = old.replace("a = 3;", "a = 33;")
    series = series_of(patch_for(old, first, heading=""), patch_for(old, second, heading=""))
    assert misplaced(follow(series, lambda _path: old)) is None


def test_a_hunk_without_old_lines_is_refused() -> None:
    patch = f"--- a/{PATH}\n+++ b/{PATH}\n@@ -4,0 +5,1 @@ static int count_read(int a)\n+	a++;\n"
    assert "has no old lines" in refusal(THREE, patch)


def test_a_new_file_has_nothing_to_be_mistaken_for() -> None:
    assert judged("", f"--- /dev/null\n+++ b/{PATH}\n@@ -0,0 +1,2 @@\n+int a;\n+int b;\n") is None


def test_more_lines_around_the_change_are_the_way_out(tmp_path: Path) -> None:
    """The advice of the catalogue, followed."""
    new = change(THREE, "flags_read")
    assert judged(THREE, patch_for(THREE, new, heading="")) is not None
    for name, text in (("old.c", THREE), ("new.c", new)):
        (tmp_path / name).write_text(text)
    command = ["diff", "-up", "-U10", "--label", f"a/{PATH}", "--label", f"b/{PATH}", "old.c", "new.c"]
    assert judged(THREE, run(command, cwd=tmp_path).text) is None


STATEMENTS = st.lists(st.sampled_from(["a++;", "b = a;", "if (a)", "	return b;", ""]), min_size=3, max_size=9)
NAMES = ["count_read", "flags_read", "group_read", "stable_flags", "read"]
FUNCTIONS = st.lists(
    st.tuples(st.sampled_from(NAMES), STATEMENTS), min_size=1, max_size=5, unique_by=lambda one: one[0]
)
NOISE = st.sampled_from(["", "int counter;\n\n", "int early;\nint late;\n\n", "EXPORT_SYMBOL(read);\n"])


def source(functions: list[tuple[str, list[str]]], *noise: str) -> str:
    parts = [function(name, *body) for name, body in functions]
    return "".join(a + b for a, b in zip([*noise, *[""] * len(parts)], parts, strict=False))


@settings(max_examples=250, deadline=None)
@given(data=st.data(), functions=FUNCTIONS, bodies=STATEMENTS, context=st.integers(1, 3))
def test_what_is_applied_is_in_the_function_that_the_author_changed(
    data: st.DataObject, functions: list[tuple[str, list[str]]], bodies: list[str], context: int
) -> None:
    alike = [(name, bodies if data.draw(st.booleans()) else body) for name, body in functions]
    changed = data.draw(st.integers(0, len(alike) - 1))
    name, body = alike[changed]
    at = data.draw(st.integers(0, len(body) - 1))
    old = source(alike)
    new = source([*alike[:changed], (name, [*body[:at], "new();", *body[at:]]), *alike[changed + 1 :]])
    patch = patch_for(old, new, context=context)
    # The kernel's tree has some of these functions, in another order, with other lines between them.
    there = data.draw(st.permutations(alike))[: data.draw(st.integers(1, len(alike)))]
    tree = source(there, *data.draw(st.lists(NOISE, max_size=4)))
    files = list(follow(series_of(patch), lambda _path: tree))
    if any(file.unplaced for file in files) or misplaced(files) is not None:
        return
    known = read_definitions(tree)
    assert [line.inside and line.inside.name for line in changed_lines(files, lambda _path: known)] == [name]
    landed = files[0].hunks[0].at
    assert enclosing(known, landed + context) is not None
