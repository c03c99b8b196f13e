# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutation operators change one thing of a source each, as a patch that can be read and applied."""

from __future__ import annotations

import random
import subprocess  # noqa: TID251 - patch(1) is the judge of the patches
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.c_source import blanked
from elivepatch.patch.parse import read_series
from mutations import KINDS, Mutation, enumerators, mutations

SOURCE = """\
// SPDX-License-Identifier: GPL-2.0
#include <linux/kernel.h>
#include "fan.h"

/* if (a == 1) "in a comment" */
static int fan_speed = 40;
static const int levels[] = { 10, 20, 30 };
static const char *const names[] = {
	[0] = "off",
	[1] = "slow",
};
static const struct fan_ops ops = {
	.limit = 7,
};

enum fan_state { FAN_OFF, FAN_SLOW, FAN_FAST = 8 };

static int fan_up(struct fan *fan, int by)
{
	fan->speed += by;
	return 0;
}

static int fan_down(struct fan *fan, int by)
{
	fan->speed -= by;
	return -EINVAL;
}

static const char *fan_name(int state)
{
	switch (state) {
	case FAN_OFF:
		return "off";
	case FAN_SLOW:
		return "slow";
	}
	return NULL;
}

static int fan_change(struct fan *fan)
{
	static DEFINE_RATELIMIT_STATE(_rs, HZ, 10);
	static int changes;
	int left = 3;

	if (fan->speed == levels[1] && !fan->stopped) {
		WARN_ON_ONCE(left > 4);
		pr_err_ratelimited("fan %d stopped\\n", fan->id);
		return fan_up(fan, left);
	}
	mutex_lock(&fan->lock);
	seq_puts(fan->log, "changed\\n");
	return fan_down(fan, left);
}

static int __init fan_init(void)
{
	return register_fan("fan", 5);
}
"""


def found(text: str = SOURCE, seed: int = 1) -> list[Mutation]:
    return list(mutations("drivers/fan.c", text, random.Random(seed)))  # noqa: S311 - a fixed sequence


def changed_lines(one: Mutation, text: str = SOURCE) -> list[str]:
    return [line for line in one.patch(text).splitlines() if line[:1] in "+-" and line[:3] not in {"+++", "---"}]


def test_each_kind_has_an_operator_that_finds_its_place() -> None:
    assert {one.kind for one in found()} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "place", "line"),
    [
        ("table entry", "names", '+\t[1] = "'),
        ("table entry", "levels", "+static const int levels[] = { 10, 20, 3"),
        ("initialiser", "ops", "+\t.limit = "),
        ("initialiser", "fan_change", "+\tint left = 3 + 1;"),
        ("enumerator", "fan_state", "+enum fan_state { FAN_OFF, FAN_SLOW, FAN_FAST = 8 + 1 };"),
        ("static", "fan_speed", "+static int fan_speed = 4"),
        ("static", "fan_change", "+\tstatic int changes = 1;"),
        ("switch arm", "fan_name", '+\t\treturn "slow";'),
        ("callee", "fan_change", "+\t\treturn fan_down(fan, left);"),
        ("callee", "fan_change", "+\tmutex_unlock(&fan->lock);"),
        ("condition", "fan_change", "+\tif (fan->speed != levels[1] && !fan->stopped) {"),
        ("condition", "fan_change", "+\tif (fan->speed == levels[1] || !fan->stopped) {"),
        ("once", "fan_change", "+\t\tWARN_ON(left > 4);"),
        ("ratelimit", "fan_change", "+\tstatic DEFINE_RATELIMIT_STATE(_rs, HZ, (10) + 1);"),
        ("ratelimit", "(all limited messages)", "+#define DEFAULT_RATELIMIT_BURST 11"),
        ("constant", "fan_down", "+\treturn -E"),
    ],
)
def test_an_operator_changes_the_thing_that_its_kind_names(kind: str, place: str, line: str) -> None:
    lines = [changed for one in found() if (one.kind, one.place) == (kind, place) for changed in changed_lines(one)]
    assert any(changed.startswith(line) for changed in lines), lines


def test_a_text_is_changed_in_one_letter_that_is_no_conversion() -> None:
    one = next(one for one in found() if one.kind == "unlikely text")
    old, new = changed_lines(one)
    assert old.startswith('-\t\tpr_err_ratelimited("fan %d stopped\\n"')
    assert sum(mine != its for mine, its in zip(old[1:], new[1:], strict=True)) == 1
    assert "%d" in new
    assert "\\n" in new


def test_comments_directives_and_code_of_the_start_are_left_alone() -> None:
    assert not [one for one in found() if one.place == "fan_init"]
    hidden = blanked(SOURCE)
    inside = [one for one in found() if one.start < one.end]
    assert all(hidden[one.start : one.end].strip() or SOURCE[one.start] == '"' for one in inside)
    assert not [one for one in found() if SOURCE.rfind("\n#", 0, one.start) > SOURCE.rfind("\n", 0, one.start)]


def test_each_mutation_is_a_patch_that_applies_and_gives_the_changed_source(tmp_path: Path) -> None:
    path = tmp_path / "drivers/fan.c"
    path.parent.mkdir()
    for one in found():
        series = PatchSeries((SourcePatch("mutant.patch", one.patch(SOURCE).encode()),))
        assert [touched.path for touched in read_series(series)] == ["drivers/fan.c"]
        path.write_text(SOURCE)
        subprocess.run(["patch", "-p1", "-s", "-F0"], cwd=tmp_path, input=one.patch(SOURCE), text=True, check=True)
        assert path.read_text() == one.applied(SOURCE) != SOURCE


def test_the_same_seed_gives_the_same_mutations() -> None:
    assert found(seed=3) == found(seed=3)
    assert found(seed=3) != found(seed=4)


def test_enumerators_of_a_header_are_those_that_the_source_names() -> None:
    header = "enum mode {\n\tMODE_A,\t/* first, = 4 */\n\tMODE_B = 2,\n\tMODE_C,\n};\n"
    dice = random.Random(1)  # noqa: S311 - a fixed sequence
    changed = list(enumerators("drivers/fan.h", header, frozenset({"MODE_B", "MODE_C"}), dice))
    assert {one.place for one in changed} == {"MODE_B", "MODE_C"}
    assert "+\tMODE_B = 2 + 1," in changed_lines(changed[0], header)


PIECES = (
    '"a\\"b"', "'{'", "/* { */", "// }\n", "{", "}", "(", ")", ";", "static int x = 4;", "case 3: return 5;", "\n",
    "#if 0\n", "#endif\n", "if (a == 1 && b)", "enum e { A, B = 2 };", "f(1)", "= { [1] = 2 }",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_text_gives_only_changes_of_its_code_or_of_texts_in_it(text: str) -> None:
    hidden = blanked(text)
    for one in found(text):
        assert 0 <= one.start <= one.end <= len(text)
        assert one.applied(text) != text
        assert hidden[one.start : one.end] == text[one.start : one.end] or text[one.start] == '"'
