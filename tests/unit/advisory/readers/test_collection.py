# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading the list: from a directory, a clone or an archive; bad files named and counted; only changes read again."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from elivepatch import process
from elivepatch.advisory.exposure.affected import State, assess
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.readers import collection as collect
from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.record import Records
from elivepatch.model.errors import ElivepatchError, UsageError
from elivepatch.model.progress import silent

SMALL = Path(__file__).parents[2] / "data" / "cve-list"
PUBLISHED = {f"CVE-2030-1000{number}" for number in range(1, 9)}
GIT = {"HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "list"))


def read(source: Path, previous: Records | None = None) -> Records:
    return read_records(source, progress=silent, previous=previous)


def file_of(source: Path, number: int, suffix: str = "json") -> Path:
    return source / f"cve/published/2030/CVE-2030-{number}.{suffix}"


def codes(records: Records) -> list[tuple[str, str]]:
    return sorted((found.code, found.name.rpartition("/")[2]) for found in records.findings.named)


def git(clone: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    process.run(["git", "-C", str(clone), *who, *arguments], env=GIT).check("git")


def make_clone(source: Path) -> Path:
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-q", "-m", "list")
    return source


TAR_MODES: dict[str, Literal["w:", "w:gz", "w:bz2", "w:xz"]] = {"": "w:", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}


def make_tar(source: Path, kind: str) -> Path:
    archive = source.parent / f"list.tar.{kind}"
    with tarfile.open(archive, TAR_MODES[kind]) as opened:
        opened.add(source, "vulns")
    return archive


def make_zip(source: Path) -> Path:
    archive = source.parent / "list.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in sorted(source.rglob("*")):
            opened.write(file, Path("vulns") / file.relative_to(source))
    return archive


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids whose files were really opened in a directory, in order."""
    opened: list[str] = []
    real = os.open

    def watch(path: str | Path, flags: int, *rest: int) -> int:
        opened.append(Path(path).name)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", watch)
    return opened


def test_a_directory_gives_every_published_record_and_the_rejected_ids() -> None:
    records = read(SMALL)
    assert set(records.listed) == PUBLISHED
    assert records.rejected == {"CVE-2030-10009"}
    assert not records.findings.total
    kettle = records.listed["CVE-2030-10002"]
    assert kettle.title == "kettle: check the lid before boiling"
    assert kettle.files == ("net/kettle/core.c", "net/kettle/lid.c")
    assert (kettle.score, kettle.severity) == (98, "critical")


def test_a_directory_may_be_any_part_of_the_list(source: Path) -> None:
    assert set(read(source / "cve" / "published" / "2030").listed) == PUBLISHED


@pytest.mark.parametrize("kind", ["xz", "gz", "bz2", ""])
def test_an_archive_gives_what_its_directory_gives(source: Path, kind: str) -> None:
    if kind == "bz2":
        with pytest.raises(UsageError) as caught:
            read(make_tar(source, kind))
        assert caught.value.problem.code == "cve-archive"
        return
    archive = read(make_tar(source, kind))
    assert archive.listed == read(source).listed
    assert archive.rejected == {"CVE-2030-10009"}


def test_a_zip_gives_what_its_directory_gives(source: Path) -> None:
    assert read(make_zip(source)).listed == read(source).listed


def test_a_clone_is_read_as_its_head_has_it(source: Path) -> None:
    expected = read(source)
    clone = make_clone(source)
    file_of(clone, 10001).write_text("changed but not committed")
    records = read(clone)
    assert records.listed == expected.listed
    assert records.rejected == expected.rejected
    assert records.origin.kind == "git"


def test_a_bare_clone_is_read_too(source: Path) -> None:
    make_clone(source)
    bare = source.parent / "bare.git"
    git(source, "clone", "-q", "--bare", str(source), str(bare))
    assert set(read(bare).listed) == PUBLISHED


def test_a_directory_inside_another_clone_is_read_as_a_directory(source: Path) -> None:
    make_clone(source)
    assert read(source / "cve").origin.kind == "directory"


def test_a_clone_without_a_commit_is_an_error_with_advice(source: Path) -> None:
    git(source, "init", "-q")
    with pytest.raises(ElivepatchError) as caught:
        read(source)
    assert caught.value.problem.code == "program-failed"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "RecursionError"),
        (b"[]", "no id"),
        (b"null", "no id"),
        (b'{"cveMetadata": {"cveId": "CVE-2030-10002", "state": "PUBLISHED"}}', "CVE-2030-10002"),
        (b'{"cveMetadata": {"cveId": "CVE-2030-10001"}}', "published"),
        (b'{"cveMetadata": {"cveId": "CVE-2030-10001", "state": "DRAFT"}}', "unknown state"),
        (b'{"cveMetadata": {"cveId": "CVE-2030-10001", "state": "PUBLISHED"}}', "authority"),
        (b'{"cveMetadata": [], "containers": 3}', "no id"),
    ],
)
def test_a_record_with_missing_fields_is_named_and_unknown(source: Path, content: bytes, says: str) -> None:
    file_of(source, 10001).write_bytes(content)
    records = read(source)
    assert set(records.listed) == PUBLISHED
    assert says in records.listed["CVE-2030-10001"].defect
    assert codes(records) == [("bad-record", "CVE-2030-10001.json")]
    assert says in records.findings.named[0].message


def test_fields_of_the_wrong_kind_do_not_stop_the_reading(source: Path) -> None:
    file = file_of(source, 10001)
    data = json.loads(file.read_text())
    data["containers"]["cna"] |= {"title": 7, "metrics": [3, {"cvssV3_1": {"baseScore": "x"}}], "affected": {"a": 1}}
    file.write_text(json.dumps(data))
    record = read(source).listed["CVE-2030-10001"]
    assert (record.title, record.files, record.score) == ("", (), None)
    assert record.introductions


@pytest.mark.parametrize("text", ["", f"6.99:{'a' * 40}:7.0:{'b' * 40}\n", "garbage"])
def test_a_record_with_impossible_versions_is_named_and_unknown(source: Path, text: str) -> None:
    file_of(source, 10001, "dyad").write_text(text)
    records = read(source)
    assert codes(records) == [("bad-ranges", "CVE-2030-10001")]
    found = assess(records.listed["CVE-2030-10001"], parse_kernel_version("6.1.50"))
    assert found.state is State.UNKNOWN


def test_a_record_without_ranges_or_without_json_is_unknown(source: Path) -> None:
    file_of(source, 10001, "dyad").unlink()
    file_of(source, 10002, "json").unlink()
    records = read(source)
    assert codes(records) == [("bad-ranges", "CVE-2030-10001"), ("no-json", "CVE-2030-10002")]
    assert set(records.listed) == PUBLISHED
    kernel = parse_kernel_version("6.1.50")
    states = {assess(records.listed[f"CVE-2030-1000{number}"], kernel).state for number in (1, 2)}
    assert states == {State.UNKNOWN}


def test_duplicates_are_named_and_the_first_one_counts(source: Path) -> None:
    second = source / "cve" / "published" / "2031"
    second.mkdir()
    for suffix in ("json", "dyad"):
        shutil.copy(file_of(source, 10001, suffix), second)
    records = read(source)
    assert records.findings.counts == {"duplicate": 2}
    assert set(records.listed) == PUBLISHED


def test_a_record_that_is_published_and_rejected_is_rejected(source: Path) -> None:
    shutil.copy(file_of(source, 10001), source / "cve" / "rejected" / "2030")
    records = read(source)
    assert "CVE-2030-10001" not in records.listed
    assert codes(records) == [("also-rejected", "CVE-2030-10001")]


def test_a_json_that_says_rejected_is_rejected_wherever_it_lies(source: Path) -> None:
    file = file_of(source, 10001)
    file.write_text(file.read_text().replace("PUBLISHED", "REJECTED"))
    records = read(source)
    assert "CVE-2030-10001" in records.rejected
    assert "CVE-2030-10001" not in records.listed


def test_file_names_outside_the_kernel_source_are_dropped_and_named(source: Path) -> None:
    file = file_of(source, 10001)
    file.write_text(file.read_text().replace('"drivers/lamp/wick.c"', '"../../etc/passwd", "/bin/sh", "kernel/fork.c"'))
    records = read(source)
    assert records.listed["CVE-2030-10001"].files == ("kernel/fork.c",)
    assert records.findings.counts == {"bad-file-name": 2}


def test_what_a_terminal_would_obey_is_taken_out_of_titles(source: Path) -> None:
    file = file_of(source, 10001)
    file.write_text(file.read_text().replace("lamp: do not", "lamp\\u001b[2J\\r\\ndo not"))
    assert read(source).listed["CVE-2030-10001"].title.isprintable()


def test_links_and_pipes_in_a_directory_are_named_and_never_opened(source: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    file_of(source, 10001).unlink()
    file_of(source, 10001).symlink_to(secret)
    file_of(source, 10002).unlink()
    os.mkfifo(file_of(source, 10002))
    (source / "cve" / "loop").symlink_to(source)
    records = read(source)
    assert set(records.listed) == PUBLISHED
    assert {name for name, record in records.listed.items() if record.defect} == {"CVE-2030-10001", "CVE-2030-10002"}
    assert codes(records)[2:] == [("not-a-file", "CVE-2030-10001.json"), ("not-a-file", "CVE-2030-10002.json")]


def test_a_huge_file_is_named_and_not_read(source: Path) -> None:
    with file_of(source, 10001).open("r+b") as file:
        file.truncate(3 * 1024**3)
    records = read(source)
    assert codes(records) == [("no-json", "CVE-2030-10001"), ("too-large", "CVE-2030-10001.json")]


def test_a_record_of_which_no_file_can_be_read_is_unknown(source: Path) -> None:
    for suffix in ("json", "dyad"):
        file_of(source, 10001, suffix).unlink()
        file_of(source, 10001, suffix).symlink_to("/nonexistent")
    assert read(source).listed["CVE-2030-10001"].defect == "It is a link or a device."


@pytest.mark.parametrize("form", ["clone", "directory", "tar", "zip"])
def test_the_records_tell_when_the_newest_of_them_changed(source: Path, form: str) -> None:
    made = datetime(2030, 5, 2, 10, 0, 2, tzinfo=UTC)
    for file in source.rglob("*"):
        os.utime(file, (0, made.timestamp() - 86400))
    os.utime(file_of(source, 10002), (0, made.timestamp()))
    if form == "clone":
        stamp = {"GIT_COMMITTER_DATE": f"{int(made.timestamp())} +0200"}
        process.run(["git", "-C", str(source), "init", "-q"], env=GIT).check("git")
        git(source, "add", ".")
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        process.run(["git", "-C", str(source), *who, "commit", "-q", "-m", "list"], env=GIT | stamp).check("git")
    read_from = {"tar": lambda: make_tar(source, "xz"), "zip": lambda: make_zip(source)}.get(form, lambda: source)()
    records = read(read_from)
    assert records.newest is not None
    assert abs((records.newest - made).total_seconds()) <= (86400 if form == "zip" else 0), "a zip has no time zone"
    assert read(read_from, records).newest == records.newest


def test_a_source_without_records_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    assert caught.value.problem.code == "cve-no-records"


@pytest.mark.parametrize("name", ["missing", "/dev/zero"])
def test_a_source_that_is_no_file_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path / name)
    assert caught.value.problem.code == "cve-records"


def test_too_many_records_are_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "_RECORDS_MAX", 5)
    for given in (source, make_tar(source, "xz")):
        with pytest.raises(UsageError) as caught:
            read(given)
        assert caught.value.problem.code == "cve-too-many-records"


def test_an_unchanged_directory_is_not_read_again(source: Path, reading: list[str]) -> None:
    first = read(source)
    reading.clear()
    second = read(source, first)
    assert reading == []
    assert second == first


def test_only_the_changed_record_of_a_directory_is_read_again(source: Path, reading: list[str]) -> None:
    first = read(source)
    file = file_of(source, 10003)
    file.write_text(file.read_text().replace("drum: bound", "drum: limit"))
    reading.clear()
    second = read(source, first)
    assert sorted(reading) == ["CVE-2030-10003.dyad", "CVE-2030-10003.json"]
    assert second.listed["CVE-2030-10003"].title == "drum: limit the beat"
    assert second.listed["CVE-2030-10001"] is first.listed["CVE-2030-10001"]


def test_a_change_that_keeps_size_and_time_of_a_file_is_noticed(source: Path) -> None:
    first = read(source)
    file = file_of(source, 10003)
    seen = file.stat()
    file.write_text(file.read_text().replace("drum", "harp"))
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert read(source, first).listed["CVE-2030-10003"].title == "harp: bound the beat"


def is_taken_whole(second: Records, first: Records) -> bool:
    return second == first and all(second.listed[name] is record for name, record in first.listed.items())


def test_a_new_commit_changes_only_its_records(source: Path) -> None:
    clone = make_clone(source)
    first = read(clone)
    assert is_taken_whole(read(clone, first), first)
    file = file_of(clone, 10003)
    file.write_text(file.read_text().replace("drum: bound", "drum: limit"))
    git(clone, "rm", "-q", "--", str(file_of(clone, 10008)), str(file_of(clone, 10008, "dyad")))
    git(clone, "commit", "-q", "-a", "-m", "change")
    second = read(clone, first)
    assert second.listed["CVE-2030-10003"].title == "drum: limit the beat"
    assert "CVE-2030-10008" not in second.listed
    unchanged = [name for name in second.listed if second.listed[name] is first.listed[name]]
    assert set(unchanged) == PUBLISHED - {"CVE-2030-10003", "CVE-2030-10008"}


def test_the_same_archive_is_not_unpacked_again(source: Path) -> None:
    archive = make_tar(source, "xz")
    first = read(archive)
    assert is_taken_whole(read(archive, first), first)
    for suffix in ("json", "dyad"):
        file_of(source, 10008, suffix).unlink()
    assert "CVE-2030-10008" not in read(make_tar(source, "xz"), first).listed


def test_an_update_reports_findings_again(source: Path) -> None:
    file_of(source, 10001, "dyad").write_text("garbage")
    first = read(source)
    assert codes(read(source, first)) == codes(first) == [("bad-ranges", "CVE-2030-10001")]


def test_a_clone_cannot_make_git_run_a_program(source: Path, tmp_path: Path) -> None:
    """A clone may lack objects and name a program that fetches them; it is not run."""
    clone = make_clone(source)
    witness = tmp_path / "witness"
    for key, value in {
        "extensions.partialClone": "origin",
        "core.repositoryFormatVersion": "1",
        "remote.origin.promisor": "true",
        "remote.origin.url": f"ext::sh -c touch% {witness}",
        "protocol.ext.allow": "always",
        "core.fsmonitor": f"touch {witness}",
        "core.pager": f"touch {witness}",
    }.items():
        git(clone, "config", key, value)
    blob = process.run(["git", "-C", str(clone), "rev-parse", "HEAD:cve/published/2030/CVE-2030-10001.json"], env=GIT)
    name = blob.check("git").text.strip()
    (clone / ".git" / "objects" / name[:2] / name[2:]).unlink()
    records = read(clone)
    assert not witness.exists()
    assert codes(records) == [("no-json", "CVE-2030-10001"), ("unreadable", "CVE-2030-10001.json")]
