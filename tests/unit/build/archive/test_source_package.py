# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's changes to a source: found through the signed index of sources, and fetched without the source."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from fake_apt import Apt

from elivepatch.build.archive.apt import Archive, Package
from elivepatch.build.archive.source_package import fetch_changes
from elivepatch.model.errors import EnvironmentFault

CONTENT = b"patches"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = "linux_6.1.176-1.debian.tar.xz"
BINARY = Package(name="linux-source-6.1", version="6.1.176-1", sha256="1" * 64, size_bytes=9, depends="",
                 source="linux")  # fmt: skip
MADISON = """
    linux-source-6.1 | 6.1.176-1 | http://mirror.example/debian bookworm/main amd64 Packages
    linux-source-6.1 | 6.1.176-1 | http://mirror.example/debian-security bookworm-security/main amd64 Packages
    linux-source-6.1 | 6.1.170-3 | http://mirror.example/debian bookworm-updates/main amd64 Packages
"""


def stanza(version: str = "6.1.176-1", file: str = FILE, name: str = "linux", digest: str = DIGEST) -> str:
    return (
        f"Package: {name}\nVersion: {version}\nFiles:\n {'d' * 32} {len(CONTENT)} {file}\n"
        f"Checksums-Sha256: \n {'2' * 64} 137945728 linux_6.1.176.orig.tar.xz\n {digest} {len(CONTENT)} {file}\n"
        f" {'3' * 64} 99 linux_6.1.176-1.dsc\nDirectory: pool/main/l/linux\n"
    )


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Apt:
    made = Apt(monkeypatch)
    made.answers["madison"] = MADISON
    made.fetched["showsrc"] = f"{stanza('6.1.170-3', digest='4' * 64)}\n{stanza()}\n"

    def download(place: Path) -> tuple[int, str]:
        (place / FILE).write_bytes(CONTENT)
        return 0, ""

    made.download = download
    return made


def refusal(tmp_path: Path, binary: Package = BINARY) -> tuple[str, str]:
    with pytest.raises(EnvironmentFault) as caught:
        fetch_changes(Archive(tmp_path), binary)
    return caught.value.problem.code, caught.value.problem.message


def test_the_changes_of_exactly_this_version_are_fetched_once_and_nothing_else(tmp_path: Path, programs: Apt) -> None:
    archive = Archive(tmp_path)
    name, path = fetch_changes(archive, BINARY)
    assert (name, path.read_bytes()) == (FILE, CONTENT)
    assert fetch_changes(archive, BINARY) == (name, path)
    (command,) = programs.downloads
    assert {"--download-only", "--diff-only", "linux=6.1.176-1"} <= set(command)


def test_the_index_of_sources_is_fetched_only_for_a_version_that_it_lacks_and_only_of_its_suites(
    tmp_path: Path, programs: Apt
) -> None:
    archive = Archive(tmp_path)
    fetch_changes(archive, BINARY)
    assert programs.sources_updated == ["bookworm", "bookworm-security"]
    fetch_changes(archive, BINARY)
    assert len(programs.sources_updated) == 2


def test_a_suite_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path, programs: Apt) -> None:
    programs.fails["bookworm"] = "E: Release file is expired.\n"
    assert fetch_changes(Archive(tmp_path), BINARY)[0] == FILE
    assert programs.sources_updated == ["bookworm-security"]


@pytest.mark.parametrize("source", ["linux (6.1.176-1)", "linux"])
def test_the_package_says_which_source_it_was_made_from(tmp_path: Path, programs: Apt, source: str) -> None:
    version = "6.1.176-1" if "(" not in source else "6.1.176-1+b1"
    programs.answers["madison"] = MADISON.replace("6.1.176-1", version)
    assert fetch_changes(Archive(tmp_path), replace(BINARY, version=version, source=source))[0] == FILE


@pytest.mark.parametrize("source", ["", "-o=x", "linux (6.1", "linux; id", "Linux"])
def test_a_source_that_is_no_name_is_never_given_to_apt(tmp_path: Path, programs: Apt, source: str) -> None:
    assert refusal(tmp_path, replace(BINARY, source=source))[0] == "package-layout"


@pytest.mark.parametrize("left", [stanza("6.1.176-2"), stanza(name="linux-6.1"), ""])
def test_a_version_that_the_index_of_sources_has_not_is_told(tmp_path: Path, programs: Apt, left: str) -> None:
    programs.fetched["showsrc"] = left
    code, message = refusal(tmp_path)
    assert code == "package-missing"
    assert "linux in version 6.1.176-1" in message


def test_an_index_of_sources_that_cannot_be_read_is_told_with_the_reason(tmp_path: Path, programs: Apt) -> None:
    programs.fails["bookworm sources"] = "E: Failed to fetch the index  503  Service Unavailable\n"
    code, message = refusal(tmp_path)
    assert code == "package-missing"
    assert "503  Service Unavailable" in message


def test_changes_that_the_index_lists_and_the_archive_lost_are_told(tmp_path: Path, programs: Apt) -> None:
    programs.download = lambda _: (100, f"E: Failed to fetch http://mirror.example/{FILE}  404  Not Found [IP: ::1]\n")
    code, message = refusal(tmp_path)
    assert code == "package-gone"
    assert "the source of linux 6.1.176-1" in message


def test_other_changes_than_the_index_names_are_refused(tmp_path: Path, programs: Apt) -> None:
    def download(place: Path) -> tuple[int, str]:
        (place / FILE).write_bytes(b"another")
        return 0, ""

    programs.download = download
    assert refusal(tmp_path)[0] == "package-damaged"
    assert not list(Archive(tmp_path).packages_dir.iterdir())


@pytest.mark.parametrize("file", ["linux_6.1.176-1.diff.gz", "linux_6.1.176-1.debian.tar.xz.asc", "../x.debian.tar.xz"])
def test_a_source_package_without_one_archive_of_changes_is_told(tmp_path: Path, programs: Apt, file: str) -> None:
    programs.fetched["showsrc"] = stanza(file=file)
    assert refusal(tmp_path)[0] == "package-layout"
