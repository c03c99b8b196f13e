# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking over what untrusted programs left: plain files only, no way out of the directory, no size without bound."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from elivepatch.build.sandbox.output import files_below, made_by_series, source_text, take, take_file
from elivepatch.model.errors import BuildStopped, EnvironmentFault, Kind

LIMIT = 1 << 20


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "secret.o").write_bytes(b"of the host")
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def refused(output: Path, name: str) -> str:
    with pytest.raises(EnvironmentFault) as caught:
        take(output, name, limit_bytes=LIMIT)
    assert caught.value.problem.code == "sandbox-output"
    return caught.value.problem.message


def test_a_plain_file_is_taken_also_from_deep_inside(output: Path) -> None:
    (output / "a/b").mkdir(parents=True)
    (output / "a/b/x.o").write_bytes(b"object")
    assert take(output, "a/b/x.o", limit_bytes=LIMIT) == b"object"


def test_a_link_in_place_of_the_file_is_not_followed(output: Path) -> None:
    (output / "x.o").symlink_to(output.parent / "secret.o")
    assert "x.o" in refused(output, "x.o")


def test_a_link_on_the_way_is_not_followed(output: Path) -> None:
    (output / "dir").symlink_to(output.parent)
    refused(output, "dir/secret.o")


def test_a_link_to_a_file_beside_it_is_not_followed_either(output: Path) -> None:
    (output / "real.o").write_bytes(b"x")
    (output / "x.o").symlink_to("real.o")
    refused(output, "x.o")


def test_a_pipe_does_not_make_us_wait(output: Path) -> None:
    os.mkfifo(output / "x.o")
    assert "not a plain file" in refused(output, "x.o")


def test_a_directory_or_a_socket_is_refused(output: Path) -> None:
    (output / "x.o").mkdir()
    refused(output, "x.o")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(output / "y.o"))
        refused(output, "y.o")


def test_a_file_that_is_too_large_is_refused(output: Path) -> None:
    with (output / "x.o").open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than 1 MiB" in refused(output, "x.o")


def test_a_file_of_just_the_limit_is_taken(output: Path) -> None:
    (output / "x.o").write_bytes(bytes(LIMIT))
    assert len(take(output, "x.o", limit_bytes=LIMIT)) == LIMIT


def test_a_missing_file_is_missing_for_one_and_refused_by_the_other(output: Path) -> None:
    for name in ("x.o", "no/x.o"):
        with pytest.raises(FileNotFoundError):
            take(output, name, limit_bytes=LIMIT)
        with pytest.raises(EnvironmentFault, match="is missing"):
            take_file(output, name, output.parent / "copy.o", limit_bytes=LIMIT)
    assert not (output.parent / "copy.o").exists()


def test_a_taken_file_is_a_copy_of_our_own(output: Path) -> None:
    (output / "x.o").write_bytes(b"object")
    copy = take_file(output, "x.o", output.parent / "copy.o", limit_bytes=LIMIT)
    (output / "x.o").write_bytes(b"changed afterwards")
    assert copy.read_bytes() == b"object"
    assert copy.stat().st_mode & 0o777 == 0o644


def test_a_file_of_ours_is_never_written_over(output: Path) -> None:
    (output / "x.o").write_bytes(b"object")
    with pytest.raises(FileExistsError):
        take_file(output, "x.o", output.parent / "secret.o", limit_bytes=LIMIT)
    assert (output.parent / "secret.o").read_bytes() == b"of the host"


def test_a_file_that_is_too_large_is_not_copied(output: Path) -> None:
    with (output / "x.o").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(EnvironmentFault, match="larger than 1 MiB"):
        take_file(output, "x.o", output.parent / "copy.o", limit_bytes=LIMIT)
    assert not (output.parent / "copy.o").exists()


def test_only_plain_files_are_listed_and_no_link_is_followed(output: Path) -> None:
    (output / "kernel/fs").mkdir(parents=True)
    (output / "kernel/fs/a.ko").write_bytes(b"a")
    (output / "kernel/b.ko").write_bytes(b"b")
    (output / "kernel/link.ko").symlink_to(output.parent / "secret.o")
    (output / "kernel/away").symlink_to(output.parent)
    os.mkfifo(output / "kernel/pipe.ko")
    assert files_below(output) == ["kernel/b.ko", "kernel/fs/a.ko"]
    assert files_below(output, "kernel/fs") == ["a.ko"]


def test_a_link_in_place_of_a_listed_directory_is_refused(output: Path) -> None:
    (output / "lib").symlink_to(output.parent)
    with pytest.raises(EnvironmentFault):
        files_below(output, "lib")
    with pytest.raises(FileNotFoundError):
        files_below(output, "missing")


def test_a_link_inside_a_source_tree_is_part_of_the_source(output: Path) -> None:
    (output / "include").mkdir()
    (output / "include/real.h").write_bytes(b"/* \xe9 */")
    (output / "include/link.h").symlink_to("real.h")
    assert source_text(output, "include/link.h") == source_text(output, "include/real.h") == "/* \xe9 */"
    for name in ("missing.h", "include", "include/real.h/x", "include/dangling.h"):
        assert source_text(output, name) is None


@pytest.mark.parametrize("target", ["../secret.o", "/etc/passwd"])
def test_a_link_out_of_a_source_tree_is_refused(output: Path, target: str) -> None:
    (output / "a.h").symlink_to(target)
    (output / "up").symlink_to("..")
    for name in ("a.h", "up/secret.o"):
        with pytest.raises(EnvironmentFault, match="out of the source"):
            source_text(output, name)


@pytest.mark.parametrize("read", ["take", "take_file"])
def test_what_a_series_makes_too_large_is_its_own_fault(output: Path, tmp_path: Path, read: str) -> None:
    (output / "huge.o").write_bytes(b"x" * 11)
    reads: dict[str, Callable[[], object]] = {
        "take": lambda: take(output, "huge.o", limit_bytes=10),
        "take_file": lambda: take_file(output, "huge.o", tmp_path / "taken.o", limit_bytes=10),
    }
    with pytest.raises(BuildStopped) as caught, made_by_series("The object of a.c"):
        reads[read]()
    assert caught.value.problem.code == "module-too-large"
    assert caught.value.problem.kind is Kind.FAILURE
    assert not (tmp_path / "taken.o").exists()


def test_any_other_fault_of_the_output_stays_ours(output: Path) -> None:
    (output / "pipe.o").mkdir()
    with pytest.raises(EnvironmentFault), made_by_series("The object of a.c"):
        take(output, "pipe.o", limit_bytes=10)
