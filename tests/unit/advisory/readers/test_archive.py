# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives that were made to do harm: nothing is written, nothing outside is read, nothing grows without bound."""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.readers.archive import RECORD_FILE_MAX, TOTAL_MAX, archive_files
from elivepatch.advisory.readers.compressed import DamagedArchive
from elivepatch.advisory.readers.tar import tar_members
from elivepatch.advisory.records.record import NAMED_MAX, Findings
from elivepatch.model.errors import UsageError

MIB = 1024 * 1024
GOOD = "cve/published/2030/CVE-2030-10001.json"


def wanted(name: str) -> bool:
    return name.endswith(".json")


def read(archive: Path, *, total_max: int = TOTAL_MAX) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    findings = Findings()
    files = dict(archive_files(archive, findings, wanted=wanted, total_max=total_max))
    return files, [(found.code, found.name) for found in findings.named]


def refused(archive: Path, *, total_max: int = TOTAL_MAX) -> str:
    with pytest.raises(UsageError) as caught:
        read(archive, total_max=total_max)
    assert caught.value.problem.code == "cve-archive"
    return caught.value.problem.message


Mode = Literal["w", "w:gz", "w:xz"]


def tar_of(path: Path, fill: Callable[[tarfile.TarFile], None], mode: Mode = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        fill(archive)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"{}", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def tar_with(path: Path, files: dict[str, bytes], mode: Mode = "w:gz") -> Path:
    def fill(archive: tarfile.TarFile) -> None:
        for name, content in files.items():
            add(archive, name, content)

    return tar_of(path, fill, mode)


OUTSIDE = ["../evil.json", "/etc/evil.json", "cve/../../evil.json"]


def test_members_outside_of_a_tar_are_named_and_skipped(tmp_path: Path) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        for name in [*OUTSIDE, GOOD]:
            add(archive, name)

    files, findings = read(tar_of(tmp_path / "a.tar.gz", fill))
    assert set(files) == {GOOD}
    assert findings == [("outside-path", name) for name in OUTSIDE]
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar.gz"]


def test_members_outside_of_a_zip_are_named_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*OUTSIDE, GOOD]:
            archive.writestr(name, "{}")
    files, findings = read(path)
    assert set(files) == {GOOD}
    assert findings == [("outside-path", name) for name in OUTSIDE]


def test_links_and_devices_in_a_tar_are_named_and_skipped(tmp_path: Path) -> None:
    kinds = {"sym": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}

    def fill(archive: tarfile.TarFile) -> None:
        for name, kind in kinds.items():
            add(archive, f"{name}.json", b"", type=kind, linkname="/etc/passwd")
        add(archive, GOOD)

    files, findings = read(tar_of(tmp_path / "a.tar.gz", fill))
    assert set(files) == {GOOD}
    assert findings == [("not-a-file", f"{name}.json") for name in kinds]


def test_links_in_a_zip_are_named_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr(GOOD, "{}")
    files, findings = read(path)
    assert set(files) == {GOOD}
    assert findings == [("not-a-file", "link.json")]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_that_is_too_large_is_named_and_the_rest_goes_on(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    huge = b"0" * (RECORD_FILE_MAX + 1)
    if kind == "tar":
        tar_with(path, {"huge.json": huge, GOOD: b"{}"})
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("huge.json", huge)
            archive.writestr(GOOD, "{}")
    files, findings = read(path)
    assert files == {GOOD: b"{}"}
    assert findings == [("too-large", "huge.json")]


@pytest.mark.parametrize("pack", [gzip.open, lzma.open], ids=["gz", "xz"])
def test_a_bomb_ends_at_the_limit_and_fills_no_memory(tmp_path: Path, pack: Callable[..., io.BufferedIOBase]) -> None:
    """One member of 256 MiB of zeros, packed to less than 1 MiB."""
    path = tmp_path / "bomb"
    with pack(path, "wb") as file:
        member = tarfile.TarInfo("bomb.json")
        member.size = 256 * MIB
        file.write(member.tobuf())
        for _ in range(32):
            file.write(bytes(8 * MIB))
    assert path.stat().st_size < MIB
    tracemalloc.start()
    try:
        message = refused(path, total_max=64 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "unpacks to more than 64 MiB" in message
    assert peak < 24 * MIB


def test_a_zip_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(12):
            archive.writestr(f"{number}.json", bytes(RECORD_FILE_MAX))
    assert "unpacks to more than 8 MiB" in refused(path, total_max=8 * MIB)


def test_a_large_tar_is_streamed(tmp_path: Path) -> None:
    """The file has holes: 512 MiB to read, nothing on the disk, never more than a piece of it in memory."""
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        member = tarfile.TarInfo("large.json")
        member.size = 512 * MIB
        file.write(member.tobuf())
        file.seek(member.size, io.SEEK_CUR)
        good = tarfile.TarInfo(GOOD)
        good.size = 2
        file.write(good.tobuf() + b"{}".ljust(512, b"\0") + bytes(1024))
    tracemalloc.start()
    try:
        files, findings = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert files == {GOOD: b"{}"}
    assert findings == [("too-large", "large.json")]
    assert peak < 8 * MIB


def test_a_header_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 2**40
        path.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
        assert "extended header" in refused(path)


def test_an_xz_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 4096}]
    packed = bytearray(lzma.compress(bytes(10240), filters=filters))
    # The dictionary's size is one byte of the block header, which has its own checksum (xz-file-format 3.1, 5.3.1).
    at = 12
    end = at + (packed[at] + 1) * 4
    packed[packed.index(b"\x21\x01", at, end) + 2] = 39
    packed[end - 4 : end] = zlib.crc32(packed[at : end - 4]).to_bytes(4, "little")
    path.write_bytes(packed)
    assert "memory" in refused(path).lower()


def test_a_zip_with_a_huge_table_of_contents_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(GOOD, "{}")
    content = bytearray(path.read_bytes())
    content[-22 + 12 : -22 + 16] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    assert "table of contents" in refused(path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_packing_has_no_bound_is_refused_before_it_is_unpacked(
    tmp_path: Path, packing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("CVE-2026-0001.json", bytes(4 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it is unpacked"))
    with pytest.raises(UsageError, match="bzip2 or LZMA"):
        list(archive_files(path, Findings(), wanted=lambda _: True))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(GOOD, "{}")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    assert "encrypted" in refused(path)


def test_findings_of_a_hostile_archive_are_counted_but_not_all_kept(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "a", {f"../{number}.json": b"{}" for number in range(1500)})
    findings = Findings()
    assert not list(archive_files(path, findings, wanted=wanted))
    assert findings.total == 1500
    assert len(findings.named) == NAMED_MAX


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_an_archive_that_ends_early_is_refused_not_half_read(tmp_path: Path, mode: Mode) -> None:
    path = tmp_path / "a"
    tar_with(path, {f"{number}.json": bytes(range(256)) * 9 for number in range(40)}, mode)
    content = path.read_bytes()
    for length in (len(content) // 2, len(content) // 2 // 512 * 512):
        path.write_bytes(content[:length])
        refused(path)


def test_every_byte_damaged_in_turn_is_refused_or_read_but_never_crashes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(GOOD, "{}" * 50)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            read(path)
        except UsageError as error:
            assert error.problem.code == "cve-archive"  # noqa: PT017 - either outcome is right


names = st.text(alphabet="abcdefgh/.-_é", min_size=1, max_size=300).filter(
    lambda name: not name.endswith("/") and not name.startswith("/") and "//" not in name
)


@given(
    st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=6),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_tar_members_are_what_was_put_in(files: list[tuple[str, bytes]], form: int) -> None:
    packed = io.BytesIO()
    put: list[tuple[str, bytes]] = []
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, content in files:
            try:
                add(archive, name, content)
            except ValueError:
                continue  # the oldest format has no room for long names
            put.append((name, content))
    packed.seek(0)
    assert [(member.name, member.content) for member in tar_members(packed, wanted_bytes=2000)] == put


@given(st.binary(max_size=2048))
def test_any_bytes_are_a_tar_or_damaged(content: bytes) -> None:
    try:
        list(tar_members(io.BytesIO(content), wanted_bytes=1000))
    except DamagedArchive as error:
        assert error.why  # noqa: PT017 - either outcome is right
