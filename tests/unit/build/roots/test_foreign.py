# SPDX-License-Identifier: GPL-2.0-or-later
"""Roots that an operator brings: what is taken, what is dropped and said, what is refused. They are hostile."""

from __future__ import annotations

import errno
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_maker import Made
from outside import OutsideSandbox

from elivepatch.build.roots import foreign
from elivepatch.build.roots.foreign import ForeignRoot, take_root
from elivepatch.build.sandbox.bubblewrap import MOUNT_POINTS
from elivepatch.files.room import RoomWatch
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.process import run

PROGRAMS = ("sh", "make", "as", "ld", "ar", "nm", "objcopy", "readelf", "bc", "flex", "bison", "m4", "tar", "xz",
            "gzip", "patch", "find", "xargs", "grep", "sed", "awk", "sort", "cmp")  # fmt: skip


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A root with all that a kernel's build calls, and a gcc."""
    top = tmp_path / "given"
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/include").mkdir()
    (top / "bin").symlink_to("usr/bin")
    (top / "usr/include/gelf.h").touch()
    for name in PROGRAMS:
        (top / "usr/bin" / name).write_text("#!/bin/sh\n")
        (top / "usr/bin" / name).chmod(0o755)
    program(top, "gcc")
    return top


def program(top: Path, name: str, machine: int = 62) -> None:
    place = top / "usr/bin" / name
    content = bytearray(Made(kind=3).write(place).read_bytes())
    content[18:20] = machine.to_bytes(2, "little")
    place.write_bytes(content)
    place.chmod(0o755)


def take(given: Path, tmp_path: Path, compiler: str | None = None) -> ForeignRoot:
    (tmp_path / "made").mkdir(exist_ok=True)
    return take_root(given, tmp_path / "made/root", OutsideSandbox().sandbox, compiler)


def packed(given: Path, tmp_path: Path) -> Path:
    place = tmp_path / "root.tar"
    with tarfile.open(place, "w") as archive:
        archive.add(given, ".")
    return place


def compressed(given: Path, tmp_path: Path) -> Path:
    place = tmp_path / "root.tar.xz"
    place.write_bytes(lzma.compress(packed(given, tmp_path).read_bytes()))
    return place


def refused(given: Path, tmp_path: Path, compiler: str | None = None) -> tuple[str, str]:
    with pytest.raises(ElivepatchError) as caught:
        take(given, tmp_path, compiler)
    problem = caught.value.problem
    assert problem.advice
    return problem.code, problem.message


@pytest.mark.parametrize("form", [lambda given, _: given, packed, compressed])
def test_a_root_is_taken_from_a_directory_or_an_archive(
    given: Path, tmp_path: Path, form: Callable[[Path, Path], Path]
) -> None:
    assert take(form(given, tmp_path), tmp_path).compiler == "gcc"
    root = tmp_path / "made/root"
    assert (root / "usr/bin/make").is_file()
    assert all((root / name).is_dir() for name in (*MOUNT_POINTS, "dev", "proc", "tmp"))
    assert [path.name for path in root.parent.iterdir()] == ["root"]


def test_a_root_can_be_named_from_where_the_operator_is(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(given.parent)
    assert take(Path("given"), tmp_path).compiler == "gcc"


def test_what_a_build_does_not_read_is_dropped_and_said(given: Path, tmp_path: Path) -> None:
    for name in ("home/me/key", "root/.ssh/id", "etc/shadow", "nix/store/x", "usr/share/doc/a", "var/lib/b"):
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        (given / name).write_text("secret")
    notes = take(packed(given, tmp_path), tmp_path).notes
    root = tmp_path / "made/root"
    kept = {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and "secret" in path.read_text("latin-1")
    }
    assert kept == set()
    assert "1 directories and files at the top that no build reads were dropped." in notes


def test_a_file_keeps_no_setuid_bit_and_belongs_to_root(given: Path, tmp_path: Path) -> None:
    (given / "usr/bin/su").write_text("su")
    os.chown(given / "usr/bin/su", 12345, 12345)
    (given / "usr/bin/su").chmod(0o4711)
    notes = take(packed(given, tmp_path), tmp_path).notes
    assert "1 files lost their setuid or setgid bit." in notes
    info = (tmp_path / "made/root/usr/bin/su").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o755, 0, 0)


def test_devices_and_pipes_are_dropped(given: Path, tmp_path: Path) -> None:
    os.mkfifo(given / "usr/pipe")
    os.mknod(given / "usr/disk", 0o660 | stat.S_IFBLK, os.makedev(8, 0))
    notes = take(packed(given, tmp_path), tmp_path).notes
    assert not os.path.lexists(tmp_path / "made/root/usr/pipe")
    assert not os.path.lexists(tmp_path / "made/root/usr/disk")
    assert any("dropped" in note for note in notes)


def test_a_link_out_of_the_root_is_kept_as_text_and_never_followed(given: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (given / "etc").symlink_to(outside)
    (given / "usr/lib").symlink_to(outside)
    take(given, tmp_path)
    assert list(outside.iterdir()) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700


def test_an_archive_whose_names_climb_out_is_refused_or_stays_inside(given: Path, tmp_path: Path) -> None:
    place = packed(given, tmp_path)
    with tarfile.open(place, "a") as archive:
        for name in ("../../../climbed", "/absolute"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    assert refused(place, tmp_path)[0] == "toolchain-root"
    assert not (tmp_path / "climbed").exists()
    assert not Path("/absolute").exists()


def test_a_mount_point_that_is_a_link_becomes_a_directory(given: Path, tmp_path: Path) -> None:
    (given / "in").symlink_to("/etc")
    take(packed(given, tmp_path), tmp_path)
    assert not (tmp_path / "made/root/in").is_symlink()


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", b"\x1f\x8b cut", b"\xfd7zXZ\0 cut"], ids=["empty", "text", "gzip", "xz"]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "root.tar").write_bytes(content)
    assert refused(tmp_path / "root.tar", tmp_path)[0] == "toolchain-root"


def test_an_archive_by_zstd_is_told_how_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "root.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd and so on")
    with pytest.raises(UsageError) as caught:
        take(tmp_path / "root.tar.zst", tmp_path)
    assert "zstd -d root.tar.zst" in caught.value.problem.advice


@pytest.mark.parametrize("top", ["rootfs/", "blobs/sha256/"])
def test_an_archive_that_holds_a_root_further_down_is_refused(given: Path, tmp_path: Path, top: str) -> None:
    place = tmp_path / "root.tar"
    with tarfile.open(place, "w") as archive:
        archive.add(given, top)
    assert refused(place, tmp_path)[0] == "toolchain-root"


def test_a_missing_file_and_a_directory_that_is_no_root_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "nowhere", tmp_path)[0] == "file-missing"
    assert refused(tmp_path / "empty", tmp_path)[0] == "toolchain-root"


def test_the_programs_that_are_missing_are_named(given: Path, tmp_path: Path) -> None:
    for name in ("flex", "bc"):
        (given / "usr/bin" / name).unlink()
    (given / "usr/include/gelf.h").unlink()
    code, message = refused(given, tmp_path)
    assert code == "toolchain-programs"
    assert message.endswith(": bc, flex, gelf.h (libelf, for objtool).")


def test_a_program_that_only_some_kernels_need_is_a_note(given: Path, tmp_path: Path) -> None:
    assert "It lacks pahole, which is needed for kernels with CONFIG_DEBUG_INFO_BTF." in take(given, tmp_path).notes


@pytest.mark.parametrize(
    ("names", "named", "found"),
    [
        (("gcc", "gcc-12"), None, "gcc"),
        (("gcc", "gcc-12"), "gcc-12", "gcc-12"),
        (("gcc-12",), None, "gcc-12"),
        (("x86_64-pc-linux-gnu-gcc",), "x86_64-pc-linux-gnu-gcc", "x86_64-pc-linux-gnu-gcc"),
    ],
)
def test_the_compiler_is_found_or_named(
    given: Path, tmp_path: Path, names: tuple[str, ...], named: str | None, found: str
) -> None:
    (given / "usr/bin/gcc").unlink()
    for name in names:
        program(given, name)
    assert take(given, tmp_path, named).compiler == found


@pytest.mark.parametrize(
    ("names", "named", "words"),
    [
        ((), None, "no compiler called gcc"),
        (("gcc-12", "gcc-13"), None, "several compilers: gcc-12, gcc-13"),
        (("gcc",), "gcc-14", "no compiler called gcc-14"),
        (("gcc",), "../gcc", "not the name of a command"),
        (("gcc",), "-v", "not the name of a command"),
    ],
)
def test_a_compiler_that_is_not_clear_is_refused(
    given: Path, tmp_path: Path, names: tuple[str, ...], named: str | None, words: str
) -> None:
    (given / "usr/bin/gcc").unlink()
    for name in names:
        program(given, name)
    code, message = refused(given, tmp_path, named)
    assert code == "toolchain-compiler"
    assert words in message


def test_a_compiler_that_is_a_script_or_of_another_architecture_is_refused(given: Path, tmp_path: Path) -> None:
    (given / "usr/bin/gcc").write_text("#!/bin/sh\necho gcc '(GCC)' 14.2.0\n")
    assert "is a script" in refused(given, tmp_path)[1]
    program(given, "gcc", machine=183)
    (tmp_path / "again").mkdir()
    assert refused(given, tmp_path / "again")[0] == "toolchain-compiler"


def test_a_root_that_fills_the_disk_is_ended(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoomWatch, "exceeded", lambda *_, **__: True)
    slow = run
    monkeypatch.setattr(foreign, "run", lambda _argv, **options: slow(["sleep", "5"], **options))
    assert "the disk is full" in refused(given, tmp_path)[1]


def test_a_root_of_many_bytes_that_take_no_room_is_refused(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "LIMIT_BYTES", 1 << 20)
    (given / "usr/holes").touch()
    os.truncate(given / "usr/holes", 2 << 20)
    assert "more than any toolchain" in refused(packed(given, tmp_path), tmp_path)[1]


def test_too_little_room_is_told_before_anything_is_copied(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise EnvironmentFault("disk-room", os.strerror(errno.ENOSPC), advice="Make room.")

    monkeypatch.setattr(foreign, "require_room", full)
    assert refused(packed(given, tmp_path), tmp_path)[0] == "disk-room"
    assert not (tmp_path / "made/root").exists()
