# SPDX-License-Identifier: GPL-2.0-or-later
"""A tool comes with the libraries that its file lists, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from elivepatch.build.sandbox import libraries
from elivepatch.process import run
from elivepatch.trial import cpio
from elivepatch.trial.workload import tools


def test_a_program_runs_from_the_packed_files_alone(tmp_path: Path) -> None:
    assert tools.missing(["perl"]) == frozenset()
    for entry in tools.pack(["perl"]):
        place = tmp_path / entry.name
        if entry.mode & 0o040000 and not entry.content:
            place.mkdir(exist_ok=True)
        else:
            place.write_bytes(entry.content)
            place.chmod(entry.mode & 0o777)
    (loader,) = (tmp_path / "lib64").iterdir()
    command: list[str | Path] = [loader, "--inhibit-cache", "--library-path", tmp_path / "lib/x86_64-linux-gnu"]
    program: list[str | Path] = [tmp_path / "trial/tools/perl", "-e", "print 6*7"]
    done = run([*command, *program]).check("Running the packed perl")
    assert done.text == "42"


def test_directories_come_before_what_is_in_them() -> None:
    seen: set[str] = {"."}
    for entry in tools.pack(["perl"]):
        assert str(Path(entry.name).parent) in seen
        seen.add(entry.name)


def test_a_tool_that_is_not_there_is_named_and_the_others_are_packed() -> None:
    names = ["no-such-tool", "perl"]
    assert tools.missing(names) == {"no-such-tool"}
    assert "trial/tools/perl" in {entry.name for entry in tools.pack(names)}


def test_equal_tools_give_equal_bytes_in_any_order() -> None:
    assert cpio.archive(tools.pack(["perl", "mke2fs"])) == cpio.archive(tools.pack(["mke2fs", "perl"]))


def test_a_script_is_no_tool(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    files: dict[str, Path] = {}
    assert not tools._add(script, files)
    assert files == {}


def test_a_library_that_is_missing_leaves_the_tool_out(tmp_path: Path) -> None:
    source = tmp_path / "gone.c"
    source.write_text("int gone(void) { return 1; }\n")
    compiler = shutil.which("gcc")
    assert compiler is not None
    run([compiler, "-shared", "-o", tmp_path / "libgone-of-a-test.so", source]).check("Compiling")
    source.write_text("int gone(void); int main(void) { return gone(); }\n")
    command: list[str | Path] = [compiler, "-o", tmp_path / "program", source, f"-L{tmp_path}", "-lgone-of-a-test"]
    run(command).check("Compiling")
    names, loader = libraries.needed(tmp_path / "program")
    assert "libgone-of-a-test.so" in names
    assert loader.endswith("ld-linux-x86-64.so.2")
    files: dict[str, Path] = {}
    assert not tools._add(tmp_path / "program", files)
    assert files == {}
