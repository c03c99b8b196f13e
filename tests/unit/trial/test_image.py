# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's file system holds every byte of a case unchanged, and no name that comes from it."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.trial import Expectation
from elivepatch.trial import cpio
from elivepatch.trial.case import TrialCase
from elivepatch.trial.image import base, pack
from elivepatch.trial.modules import ModuleTree

STATIC_ELF = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0)


def unpack(raw: bytes) -> dict[str, tuple[int, bytes]]:
    """Read archives one after the other as the kernel does: names with their mode and content."""
    found: dict[str, tuple[int, bytes]] = {}
    position = 0
    while position < len(raw):
        if raw[position] == 0:
            position += 1
            continue
        assert raw[position : position + 6] == b"070701"
        fields = [int(raw[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = raw[position + 110 : position + 110 + name_size - 1].decode()
        start = (position + 110 + name_size + 3) // 4 * 4
        position = (start + size + 3) // 4 * 4
        if name != "TRAILER!!!":
            assert Path(name).parent == Path() or str(Path(name).parent) in found, "a directory comes first"
            assert name not in found
            found[name] = (mode, raw[start : start + size])
    return found


def packed(livepatch: Path, *expectations: Expectation, name: str = "livepatch_x") -> dict[str, tuple[int, bytes]]:
    case = TrialCase(livepatch=livepatch, name=name, expectations=expectations)
    return unpack(pack([("000007", case)], ModuleTree({}, frozenset())).archive)


@given(st.binary(max_size=50), st.text(max_size=300).filter(lambda text: "\0" not in text))
def test_every_command_reaches_the_guest_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, module: bytes, command: str
) -> None:
    livepatch = tmp_path_factory.getbasetemp() / "x.ko"
    livepatch.write_bytes(module)
    found = packed(livepatch, Expectation(command=command, pattern="x"), Expectation(command="/a/file", pattern="y"))
    expectation = Expectation(command=command, pattern="x")
    assert found["trial/case/000007/expect/000"][1] == expectation.shell.encode() + b"\n"
    assert found["trial/case/000007/expect/001"][1] == b"cat /a/file\n"
    assert found["trial/case/000007/livepatch.ko"][1] == module
    assert sorted(found) == [
        "trial", "trial/case", "trial/case/000007", "trial/case/000007/expect", "trial/case/000007/expect/000",
        "trial/case/000007/expect/001", "trial/case/000007/late", "trial/case/000007/limits",
        "trial/case/000007/livepatch.ko",
        "trial/case/000007/modules", "trial/case/000007/name", "trial/case/000007/parents", "trial/modules",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["../../init", "a b", "", "a\nb"])
def test_a_name_that_no_module_can_have_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.ko").write_bytes(b"x")
    with pytest.raises(UsageError):
        packed(tmp_path / "x.ko", name=name)


def test_a_parent_is_packed_once_for_all_cases(tmp_path: Path) -> None:
    (tmp_path / "x.ko").write_bytes(b"x")
    case = TrialCase(livepatch=tmp_path / "x.ko", name="livepatch-x", parents=["nonesuch", "vmlinux"])
    result = pack([("000000", case), ("000001", case)], ModuleTree({}, frozenset()))
    assert result.missing == (("nonesuch",), ("nonesuch",))
    found = unpack(result.archive)
    assert found["trial/case/000001/name"][1] == b"livepatch_x\n"
    assert found["trial/case/000001/modules"][1] == b""


def test_the_base_has_an_init_a_shell_and_the_serial_ports(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(STATIC_ELF)
    found = unpack(base(busybox))
    assert found["init"][1].startswith(b"#!/bin/busybox sh\n")
    assert stat.S_IMODE(found["init"][0]) == 0o755
    assert found["bin/busybox"][1] == STATIC_ELF
    assert stat.S_ISCHR(found["dev/ttyS1"][0])
    assert base(busybox) == base(busybox)


def test_archives_can_follow_each_other(tmp_path: Path) -> None:
    one = cpio.archive([cpio.directory("a"), cpio.file("a/b", b"12345", executable=True)])
    two = cpio.archive([cpio.file("c", b"")])
    assert len(one) % 512 == 0
    assert unpack(one + two) == {
        "a": (stat.S_IFDIR | 0o755, b""), "a/b": (stat.S_IFREG | 0o755, b"12345"), "c": (stat.S_IFREG | 0o644, b""),
    }  # fmt: skip


def test_a_busybox_that_is_missing_or_needs_libraries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="statically linked"):
        base(tmp_path / "none")
    with pytest.raises(EnvironmentFault):
        base(Path("/bin/sh").resolve())
