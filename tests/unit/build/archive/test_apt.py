# SPDX-License-Identifier: GPL-2.0-or-later
"""The archive through apt: each suite by itself, versions by suite, and files that are gone."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_apt import TARGETS, Apt

from elivepatch.build.archive.apt import Archive, Package, suites
from elivepatch.model.errors import EnvironmentFault

EXPIRED = (
    "E: Release file for http://mirror.example/debian/dists/forky/InRelease is expired (invalid since 23d 5h). Updates "
    "for this repository will not be applied."
)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Apt:
    return Apt(monkeypatch)


def test_each_suite_is_fetched_by_itself_once_a_day(tmp_path: Path, programs: Apt) -> None:
    archive = Archive(tmp_path)
    archive.refresh()
    assert programs.updated == [*suites()]
    archive.refresh()
    assert len(programs.updated) == len(suites())
    assert archive.unreadable() == {}
    assert archive.unreadable_note() == ""


def test_an_expired_suite_harms_no_other_and_is_named(tmp_path: Path, programs: Apt) -> None:
    programs.fails["forky"] = f"W: a warning\n{EXPIRED}\nE: another error\n"
    archive = Archive(tmp_path)
    assert archive.newest("gcc-16", ("sid",)) == "16.2.0-4"
    assert [*archive.unreadable()] == ["forky"]
    note = archive.unreadable_note()
    assert "forky (Release file for InRelease is expired (invalid since 23d 5h)" in note
    assert "mirror.example" not in note
    assert "trixie" in archive.sources("trixie", "trixie-updates", "trixie-security")
    with pytest.raises(EnvironmentFault) as caught:
        archive.sources("forky", "forky-updates")
    assert caught.value.problem.code == "suite-unreadable"
    assert "forky" in caught.value.problem.message


def test_a_suite_that_failed_is_tried_again_after_an_hour(tmp_path: Path, programs: Apt) -> None:
    programs.fails["forky"] = EXPIRED
    archive = Archive(tmp_path)
    archive.refresh()
    hour_ago = time.time() - 3700
    os.utime(tmp_path / "refreshed", (hour_ago, hour_ago))
    programs.fails.clear()
    archive.refresh()
    assert archive.unreadable() == {}
    os.utime(tmp_path / "refreshed", (hour_ago, hour_ago))
    programs.updated.clear()
    archive.refresh()
    assert programs.updated == []


def test_an_index_of_fewer_suites_is_not_current(tmp_path: Path, programs: Apt) -> None:
    """Left by an earlier version."""
    (tmp_path / "refreshed").touch()
    Archive(tmp_path).refresh()
    assert programs.updated == [*suites()]


def test_an_archive_that_cannot_be_read_at_all_is_told(tmp_path: Path, programs: Apt) -> None:
    programs.fails = dict.fromkeys(suites(), "E: Could not resolve the name.")
    with pytest.raises(EnvironmentFault) as caught:
        Archive(tmp_path).refresh()
    assert caught.value.problem.code == "archive-unreadable"
    assert "Could not resolve the name" in caught.value.problem.message
    assert not (tmp_path / "refreshed").exists()


def test_the_host_without_a_security_mirror_lacks_only_those_suites(tmp_path: Path, programs: Apt) -> None:
    programs.answers["indextargets"] = TARGETS.splitlines()[0]
    archive = Archive(tmp_path)
    archive.refresh()
    assert set(archive.unreadable()) == {name for name in suites() if name.endswith("-security")}


def test_only_suites_that_are_not_signed_regularly_may_be_out_of_date(tmp_path: Path, programs: Apt) -> None:
    archive = Archive(tmp_path)
    undated = {name for name in suites() if "check-valid-until=no" in archive.sources(name)}
    assert undated == {name for name, dated in suites().items() if not dated}


@pytest.mark.parametrize(
    ("name", "named", "version"),
    [
        ("gcc-16", ("sid", "sid-updates"), "16.2.0-4"),
        ("gcc-16", ("forky",), "16.2.0-3"),
        ("gcc-16", ("trixie",), None),
        ("gcc-14", ("sid",), None),
        ("--help", ("sid",), None),
    ],
)
def test_the_newest_version_in_some_suites(
    tmp_path: Path, programs: Apt, name: str, named: tuple[str, ...], version: str | None
) -> None:
    assert Archive(tmp_path).newest(name, named) == version


@pytest.mark.parametrize(
    ("release", "found"),
    [
        ("5.10.0-46-cloud-amd64", ["5.10.0-43-cloud-amd64", "5.10.0-9-cloud-amd64"]),
        ("6.12.118+deb13-amd64", ["6.12.117+deb13-amd64", "6.12.90+deb13.1-amd64"]),
        ("6.12.40-ours", []),
    ],
)
def test_kernels_of_one_kind_are_those_with_a_debug_package_newest_first(
    tmp_path: Path, programs: Apt, release: str, found: list[str]
) -> None:
    names = ["5.10.0-9-cloud-amd64", "5.10.0-43-cloud-amd64", "5.10.0-46-cloud-amd64", "5.10.0-43-amd64",
             "6.12.90+deb13.1-amd64", "6.12.117+deb13-amd64", "6.12.118+deb12-amd64",
             "6.12.118+deb13-amd64"]  # fmt: skip
    listed = [*(f"linux-image-{name}-dbg" for name in names), "linux-image-5.10.0-99-cloud-amd64"]
    programs.answers["pkgnames"] = "\n".join(listed)
    assert Archive(tmp_path).kernels_like(release) == found


def wanted() -> Package:
    return Package(name="linux-image-5.10.0-46-cloud-amd64-dbg", version="5.10.262-1", sha256="0" * 64, size_bytes=9,
                   depends="")  # fmt: skip


def test_a_file_that_the_index_lists_and_the_archive_lost_is_told(tmp_path: Path, programs: Apt) -> None:
    programs.download = lambda _: (100, "E: Failed to fetch http://mirror.example/x.deb  404  Not Found [IP: ::1 80]\n")
    archive = Archive(tmp_path)
    archive.refresh()
    with pytest.raises(EnvironmentFault) as caught:
        archive.download([wanted()])
    assert caught.value.problem.code == "package-gone"
    assert "linux-image-5.10.0-46-cloud-amd64-dbg 5.10.262-1" in caught.value.problem.message


@pytest.mark.parametrize("log", ["E: Failed to fetch x  503  Service Unavailable\n", "E: Unable to connect\n"])
def test_any_other_failure_of_a_download_does_not_say_that_it_is_gone(tmp_path: Path, programs: Apt, log: str) -> None:
    programs.download = lambda _: (100, log)
    archive = Archive(tmp_path)
    archive.refresh()
    with pytest.raises(EnvironmentFault) as caught:
        archive.download([wanted()])
    assert caught.value.problem.code == "program-failed"


def test_another_file_than_the_index_names_is_refused(tmp_path: Path, programs: Apt) -> None:
    def download(place: Path) -> tuple[int, str]:
        (place / "x.deb").write_bytes(b"another")
        return 0, ""

    programs.download = download
    archive = Archive(tmp_path)
    archive.refresh()
    with pytest.raises(EnvironmentFault) as caught:
        archive.download([wanted()])
    assert caught.value.problem.code == "package-damaged"


def fetched(archive: Archive, content: bytes, *, days_ago: float = 0) -> tuple[Package, Path]:
    """Put a file into the archive's directory as a download does; it was last asked for some days ago."""
    package = replace(wanted(), sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    path = archive.packages_dir / f"{package.sha256}.deb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - days_ago * 86400,) * 2)
    return package, path


def test_a_file_goes_when_what_it_was_fetched_for_is_made(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    (package, path), (_, other) = fetched(archive, b"one"), fetched(archive, b"other")
    archive.drop([package, wanted()])
    assert (path.exists(), other.exists()) == (False, True)


def test_a_file_that_nobody_asked_for_within_a_week_goes(tmp_path: Path, programs: Apt) -> None:
    archive = Archive(tmp_path)
    _, old = fetched(archive, b"old", days_ago=8)
    _, young = fetched(archive, b"young", days_ago=6)
    package, used = fetched(archive, b"used", days_ago=8)
    assert archive.download([package]) == [used]
    archive.sweep()
    assert [path.exists() for path in (old, young, used)] == [False, True, True]


def test_an_archive_that_was_never_used_is_swept(tmp_path: Path) -> None:
    Archive(tmp_path / "archive").sweep()
