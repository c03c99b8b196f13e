# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a package, one after the other: nothing is unpacked, and a reader that stops ends the program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, cast

import pytest

from elivepatch.build.debug.package_files import package_files
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import Completed, run


class Outside:
    """Runs `program` on the host in place of dpkg-deb."""

    def __init__(self, *program: str) -> None:
        self.program = program
        self.done: Completed | None = None

    @property
    def sandbox(self) -> Sandbox:
        return cast("Sandbox", self)

    def run(self, argv: list[str], *, inputs: Path, printed_to: IO[bytes], **_: Any) -> Completed:
        assert argv == ["dpkg-deb", "--fsys-tarfile", "/in/a.deb"]
        self.done = run([*self.program], cwd=inputs, printed_to=printed_to)
        return self.done


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Make a directory with a tar archive in place of a package."""
    for name, content in (("first.ko", b"1" * 70000), ("second.ko", b"22")):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(content)
    (tmp_path / "files/link.ko").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "files/pipe.ko")
    run(["tar", "-c", "--sort=name", "-f", tmp_path / "data.tar", "-C", tmp_path / "files", "."]).check("Packing")
    return tmp_path / "a.deb"


def test_only_plain_files_come_each_with_its_content(package: Path) -> None:
    with package_files(package, Outside("cat", "data.tar").sandbox) as files:
        found = {name: stream.read() for name, stream in files}
    assert found == {"./first.ko": b"1" * 70000, "./second.ko": b"22"}


def test_a_reader_that_stops_does_not_wait_for_the_rest(package: Path) -> None:
    outside = Outside("sh", "-c", "cat data.tar; exec cat /dev/zero")
    with package_files(package, outside.sandbox) as files:
        assert next(files)[0] == "./first.ko"
    assert outside.done is not None
    assert outside.done.status != 0


def test_a_program_that_fails_is_what_is_reported(package: Path) -> None:
    broken = Outside("sh", "-c", "head -c 3000 data.tar; echo broken >&2; exit 3")
    with pytest.raises(EnvironmentFault) as caught, package_files(package, broken.sandbox) as files:
        list(files)
    assert caught.value.problem.code == "program-failed"
    assert "broken" in caught.value.problem.excerpt


def test_a_failure_after_the_last_file_is_noticed_too(package: Path) -> None:
    with (
        pytest.raises(EnvironmentFault),
        package_files(package, Outside("sh", "-c", "cat data.tar; exit 3").sandbox) as files,
    ):
        list(files)


def test_an_archive_that_is_none_is_refused(package: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught, package_files(package, Outside("echo", "none").sandbox) as files:
        list(files)
    assert caught.value.problem.code == "package-damaged"
