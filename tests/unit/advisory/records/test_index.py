# SPDX-License-Identifier: GPL-2.0-or-later
"""The index holds everything, is small, is replaced atomically, and shows when it is damaged."""

from __future__ import annotations

import hashlib
import random
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.exposure.version import BEGINNING, parse_kernel_version
from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.index import is_index, read_index, write_index
from elivepatch.advisory.records.record import Contradiction, FixCommit, Introduction, Origin, Record, Records
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, TrustError, UsageError
from elivepatch.model.progress import silent

SMALL = Path(__file__).parents[2] / "data" / "cve-list"
MANY = 15_000


@pytest.fixture
def records() -> Records:
    read = read_records(SMALL, progress=silent)
    override = replace(read.listed["CVE-2030-10005"], overridden="measured here")
    broken = Record(id="CVE-2030-10011", title="broken", defect="It has no .dyad file that can be read.")
    read.findings.add("bad-ranges", broken.id, broken.defect)
    first = next(iter(read.listed.values()))
    ends = (
        Contradiction(BEGINNING, parse_kernel_version("6.1.30"), affected=True, alone=True),
        Contradiction(parse_kernel_version("6.4"), None, affected=False, alone=False),
    )
    told = replace(first, contradictions=ends, doubt="Its JSON names bbbbbbbbbbbb, which its ranges lack.")
    listed = read.listed | {broken.id: broken, told.id: told}
    return replace(read, overrides={override.id: override}, listed=listed)


@pytest.fixture
def file(tmp_path: Path, records: Records) -> Path:
    write_index(records, tmp_path / "cve.idx")
    return tmp_path / "cve.idx"


def test_an_index_gives_back_all_that_was_put_in(file: Path, records: Records) -> None:
    assert read_index(file) == records


def test_the_same_records_make_the_same_index(file: Path, records: Records, tmp_path: Path) -> None:
    write_index(records, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_an_index_is_replaced_at_once_and_leaves_nothing_behind(file: Path, records: Records) -> None:
    write_index(replace(records, overrides={}), file)
    assert read_index(file).overrides == {}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("content", [b"", b"precious", b"elivepatch-cve"])
def test_a_file_that_is_no_index_is_not_overwritten(records: Records, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        write_index(records, tmp_path / "other")
    assert caught.value.problem.code == "cve-index-target"
    assert (tmp_path / "other").read_bytes() == content


def test_a_link_is_not_overwritten(records: Records, file: Path) -> None:
    (file.parent / "link").symlink_to(file)
    with pytest.raises(UsageError):
        write_index(records, file.parent / "link")


def test_a_directory_that_is_missing_is_an_error_with_advice(records: Records, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        write_index(records, tmp_path / "missing" / "cve.idx")
    assert caught.value.problem.code == "cve-index-write"


def test_a_half_written_file_of_a_killed_run_does_not_stop_the_next_one(file: Path, records: Records) -> None:
    left = file.with_name(f".{file.name}.0a1b2c3d")
    left.write_bytes(b"half")
    write_index(records, file)
    assert sorted(file.parent.iterdir()) == [left, file]
    assert read_index(file).listed == records.listed


def test_every_damaged_byte_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    chosen = range(len(content) // 200, len(content), len(content) // 200)
    for at in [0, 20, 21, 40, len(content) - 1, *chosen]:
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises((TrustError, UsageError)):
            read_index(file)


def test_a_cut_index_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    for length in (0, 10, 30, 90, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises((TrustError, UsageError)):
            read_index(file)


def test_an_index_of_another_format_is_named_so(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"-index 2\n", b"-index 3\n", 1))
    assert is_index(file)
    with pytest.raises(UsageError) as caught:
        read_index(file)
    assert caught.value.problem.code == "cve-index-format"


def _with_body(file: Path, body: bytes) -> None:
    file.write_bytes(b"elivepatch-cve-index 2\n" + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@given(
    st.binary(max_size=400) | st.recursive(st.integers() | st.text(max_size=5), st.lists).map(lambda v: str(v).encode())
)
def test_a_well_signed_body_that_is_nonsense_is_damaged(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    file = tmp_path_factory.mktemp("index") / "cve.idx"
    packed = zlib.compress(text)
    _with_body(file, len(packed).to_bytes(8) + packed)
    with pytest.raises(ElivepatchError) as caught:
        read_index(file)
    assert caught.value.problem.code == "cve-index-damaged"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"overrides":1', b'"overrides":9'),
        (b"CVE-2030-10001", b"CVE-20/../.001"),
        (b"net/kettle/lid.c", b"../../../../../x"),
        (b'"7.1"', b'"7.x"'),
        (b'"ranges"', b'"renges"'),
        (b'"scores":[78,98', b'"scores":["a",98'),
        (b'"scores":[78,98', b'"scores":[78,980'),
    ],
)
def test_tables_that_cannot_be_right_are_damaged(file: Path, old: bytes, new: bytes) -> None:
    body = file.read_bytes().split(b"\n", 2)[2]
    length = int.from_bytes(body[:8])
    text = zlib.decompress(body[8 : 8 + length])
    assert old in text
    packed = zlib.compress(text.replace(old, new))
    _with_body(file, len(packed).to_bytes(8) + packed + body[8 + length :])
    with pytest.raises(TrustError) as caught:
        read_index(file)
    assert caught.value.problem.code == "cve-index-damaged"


def test_fifteen_thousand_records_stay_below_four_megabytes(tmp_path: Path) -> None:
    """Made worse than the list is: every commit, title and file name differs, six commits to a record."""
    chance = random.Random(7)  # noqa: S311 - the same commits in every run

    def commit() -> str:
        return f"{chance.getrandbits(160):040x}"

    def words(count: int) -> str:
        return " ".join("".join(chance.choices("etaoinshrdlcum_", k=chance.randint(3, 9))) for _ in range(count))

    fixes = [parse_kernel_version(text) for text in ("5.10.200", "5.15.150", "6.1.100", "6.6.50", "6.12")]
    listed = {
        name: Record(
            id=name,
            title=words(8),
            files=(f"drivers/{words(1)}/{words(1)}.c",),
            introductions=(Introduction(BEGINNING, "", tuple(FixCommit(version, commit()) for version in fixes)),),
            score=78,
            vector="CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H",
        )
        for name in (f"CVE-{chance.randint(2019, 2026)}-{number}" for number in range(10_000, 10_000 + MANY))
    }
    marks = {name: chance.randbytes(12) for name in listed}
    records = Records(listed=listed, rejected=frozenset(), origin=Origin(kind="directory"), marks=marks)
    assert write_index(records, tmp_path / "cve.idx") <= 4 * 1024 * 1024
    assert read_index(tmp_path / "cve.idx") == records
