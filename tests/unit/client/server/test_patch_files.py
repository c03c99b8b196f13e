# SPDX-License-Identifier: GPL-2.0-or-later
"""`--expect` takes a command with a pattern, or the file of a predicate."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.client.server.patch_files import read_expectations
from elivepatch.model.errors import UsageError
from elivepatch.model.predicate import SOURCE_LIMIT_BYTES, Predicate
from elivepatch.model.trial import Expectation

SOURCE = "int main(void) { return 1; }\n"


def test_a_file_is_a_predicate_and_a_command_is_a_command(tmp_path: Path) -> None:
    file = tmp_path / "lamp.expect.c"
    file.write_text(SOURCE)
    found = read_expectations([str(file), "cat /lamp.c =~ light", "/proc/lamp =~ .c"])
    assert found == (
        Expectation.of(Predicate(name="lamp.expect.c", source=SOURCE)),
        Expectation(command="cat /lamp.c", pattern="light"),
        Expectation(command="/proc/lamp", pattern=".c"),
    )


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("gone.c", None, "predicate"),
        ("lamp.py", b"exit(1)\n", "expectation"),
        ("lamp.c", b"", "predicate"),
        ("lamp.c", b"x" * (SOURCE_LIMIT_BYTES + 1), "predicate"),
        ("lamp.sh", b"# elivepatch: hours=1\n", "predicate"),
        ("la mp.sh", b"exit 1\n", "predicate"),
    ],
)
def test_what_is_neither_is_refused(tmp_path: Path, name: str, content: bytes | None, code: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_expectations([str(tmp_path / name)])
    assert caught.value.problem.code == code


def test_predicates_that_take_too_long_together_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    files = []
    for number in range(5):
        files.append(tmp_path / f"lamp{number}.sh")
        files[-1].write_text("# elivepatch: seconds=30\nexit 1\n")
    assert len(read_expectations([str(file) for file in files[:4]])) == 4
    with pytest.raises(UsageError, match="more than 120 s"):
        read_expectations([str(file) for file in files])
