# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers of compilers: each text is taken from its own source, and a liar is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from elf_maker import Made
from outside import OutsideSandbox

from elivepatch.build.roots.answers import Answers, ask
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.model.errors import ElivepatchError
from elivepatch.process import Completed

# The lines that distributions' compilers print, and the texts that they write into objects.
PAIRS = [
    ("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0"),
    ("gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "GCC: (GNU) 14.2.1 20240912 (Red Hat 14.2.1-3)"),
    ("gcc (GCC) 11.4.1 20230605 (Red Hat 11.4.1-2)", "GCC: (GNU) 11.4.1 20230605 (Red Hat 11.4.1-2)"),
    ("gcc (GCC) 14.2.1 20240910", "GCC: (GNU) 14.2.1 20240910"),
    ("gcc (Gentoo 13.3.1_p20240614 p17) 13.3.1 20240614", "GCC: (Gentoo 13.3.1_p20240614 p17) 13.3.1 20240614"),
    ("gcc (SUSE Linux) 7.5.0", "GCC: (SUSE Linux) 7.5.0"),
    ("x86_64-linux-gnu-gcc-13 (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0", "GCC: (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0"),
    ("gcc (Alpine 14.2.0) 14.2.0", "GCC: (Alpine 14.2.0) 14.2.0"),
    ("gcc10-gcc (GCC) 10.5.0 20230707 (Red Hat 10.5.0-1)", "GCC: (GNU) 10.5.0 20230707 (Red Hat 10.5.0-1)"),
    ("Debian clang version 19.1.7 (3)", "Debian clang version 19.1.7 (3)"),
]


def compiler(says: str, comment: str, machine: int = 62) -> Callable[[Path], None]:
    def leaves(output: Path) -> None:
        (output / "says").write_text(f"{says}\nCopyright\n")
        content = bytearray(Made().section(".comment", comment.encode() + b"\0").write(output / "one.o").read_bytes())
        content[18:20] = machine.to_bytes(2, "little")
        (output / "one.o").write_bytes(content)

    return leaves


def asked(tmp_path: Path, leaves: Callable[[Path], None]) -> Answers:
    sandbox = OutsideSandbox(leaves=leaves, runs=False).sandbox
    return ask("gcc", sandbox=sandbox, helper=OutsideSandbox().sandbox, scratch=tmp_path)


def refused(tmp_path: Path, leaves: Callable[[Path], None]) -> str:
    with pytest.raises(ElivepatchError) as caught:
        asked(tmp_path, leaves)
    assert caught.value.problem.code == "toolchain-compiler"
    assert caught.value.problem.advice
    return caught.value.problem.message


@pytest.mark.parametrize(("says", "comment"), PAIRS)
def test_a_compiler_is_known_by_two_texts(tmp_path: Path, says: str, comment: str) -> None:
    assert asked(tmp_path, compiler(says, comment)) == Answers(says=says, comment=comment)
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_says_two_things_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, compiler("gcc (GCC) 14.2.1", "GCC: (GNU) 13.2.0"))
    assert "says two things" in message


def test_a_program_that_is_no_compiler_is_refused(tmp_path: Path) -> None:
    assert "neither gcc nor clang" in refused(tmp_path, compiler("hello", "GCC: (GNU) 13.2.0"))


def test_an_object_without_a_name_is_refused(tmp_path: Path) -> None:
    assert ".comment" in refused(tmp_path, compiler("gcc (GCC) 14.2.1", ""))


def test_a_compiler_for_another_architecture_is_refused(tmp_path: Path) -> None:
    assert "x86_64" in refused(tmp_path, compiler("gcc (GCC) 14.2.1", "GCC: (GNU) 14.2.1", machine=183))


def test_an_answer_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    def leaves(output: Path) -> None:
        (output / "says").symlink_to("/etc/passwd")

    with pytest.raises(ElivepatchError) as caught:
        asked(tmp_path, leaves)
    assert caught.value.problem.code == "sandbox-output"


class Ended:
    """A sandbox whose program ends in one way."""

    def __init__(self, **how: Any) -> None:
        self.how = how

    def run(self, argv: list[str], **_: Any) -> Completed:
        facts: dict[str, Any] = {"status": 1, "output": b"", "log": b"segfault", "seconds": 1.0, "timed_out": False}
        return Completed(argv=tuple(argv), **(facts | self.how))


@pytest.mark.parametrize(
    ("how", "words"), [({"timed_out": True}, "does not answer within 30 seconds"), ({}, "does not make a program")]
)
def test_a_compiler_that_hangs_or_fails_is_refused(tmp_path: Path, how: dict[str, Any], words: str) -> None:
    sandbox = cast("Sandbox", Ended(**how))
    with pytest.raises(ElivepatchError) as caught:
        ask("gcc", sandbox=sandbox, helper=sandbox, scratch=tmp_path)
    assert words in caught.value.problem.message
