# SPDX-License-Identifier: GPL-2.0-or-later
"""Compact index of all records: one file of some 3 MB, read in a fraction of a second, without a network.

Layout: a line `elivepatch-cve-index 2`, a line with the SHA-256 of everything after it, the length of the first part
(8 bytes, big-endian), then two parts. The first is zlib-compressed JSON: columns with one entry per record, and tables
of the versions, files and vectors that they point into. The second holds data that does not compress: the
commit ids (20 bytes each, in the order in which the ranges name them) and the marks (12 bytes for each record, zeros
for none). The digest detects damage, not forgery: the server that hands the file out signs it.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.version import BEGINNING, KernelVersion, listed_version
from elivepatch.advisory.records.cve5 import inside_tree
from elivepatch.advisory.records.record import (
    CVE_ID,
    Contradiction,
    Findings,
    FixCommit,
    Introduction,
    Origin,
    Record,
    RecordFinding,
    Records,
    id_order,
    plain,
)
from elivepatch.files.atomic import write_atomic
from elivepatch.files.digest import sha256
from elivepatch.model.errors import EnvironmentFault, TrustError, UsageError

MAGIC = b"elivepatch-cve-index "
FILE_MAX = 64 * 1024**2
"""Bytes of an index that are read; the whole list has some 3 MB."""

_FORMAT = 2
_TABLES_MAX = 512 * 1024**2
_COMMIT_BYTES = 20
_MARK_BYTES = 12
_SCORES = frozenset({None, *range(101)})  # CVSS in tenths
_NO_MARK = bytes(_MARK_BYTES)


def is_index(file: Path) -> bool:
    """Return whether `file` is a regular file that starts as an index of any version does."""
    if not file.is_file():
        return False
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC
    return False


def write_index(records: Records, file: Path) -> int:
    """Replace `file` by the index, atomically and durably, and return its size in bytes.

    Raises UsageError if `file` is something else than an index, EnvironmentFault if it cannot be written.
    """
    if file.is_symlink() or (file.exists() and not is_index(file)):
        raise UsageError(
            "cve-index-target",
            f"{file} exists and is not an index.",
            advice="Give another name with -o, or move that file away.",
        )
    content = _encode(records)
    try:
        write_atomic(file, content)
    except OSError as error:
        raise EnvironmentFault(
            "cve-index-write",
            f"The index {file} cannot be written: {error.strerror}.",
            advice="Check that the directory exists, may be written and has 10 MB left; the old index is untouched.",
        ) from error
    return len(content)


def read_index(file: Path) -> Records:
    """Return the records of an index.

    Raises what `decode_index` raises, UsageError if the file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_MAX + 1)
    except OSError as error:
        raise UsageError(
            "cve-records", f"The index {file} cannot be read: {error.strerror}.", advice="Check the file's name."
        ) from error
    return decode_index(content, str(file))


def decode_index(content: bytes, name: str) -> Records:
    """Return the records of an index; `name` is its name in messages.

    Raises UsageError if it is none or has another version of the format, TrustError if its digest or its
    structure does not hold.
    """
    first, _, rest = content.partition(b"\n")
    if first != MAGIC + str(_FORMAT).encode():
        raise UsageError(
            "cve-index-format",
            f"{name} is not an index of format {_FORMAT}.",
            advice="Make it again with `elivepatch cve index --records LIST -o FILE`.",
        )
    digest, _, body = rest.partition(b"\n")
    if len(content) > FILE_MAX or digest != sha256(body).encode():
        raise _damaged(name)
    try:
        return _decode(body)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, zlib.error, RecursionError) as error:
        raise _damaged(name) from error


def _damaged(name: str) -> TrustError:
    return TrustError(
        "cve-index-damaged",
        f"The index {name} is damaged: its content does not match its digest or its format.",
        advice="Copy it again from its origin, or make it again with `elivepatch cve index`.",
    )


class _Table:
    """Gives each distinct text a number, in the order of first use."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def _encode(records: Records) -> bytes:
    versions, files, vectors = _Table(), _Table(), _Table()
    blobs = bytearray()
    names = sorted(records.listed, key=id_order)
    overridden = sorted(records.overrides, key=id_order)
    rows = [records.listed[name] for name in names] + [records.overrides[name] for name in overridden]
    tables = {
        "ids": [row.id for row in rows],
        "overrides": len(overridden),
        "titles": [row.title for row in rows],
        "files": [[files.number(file) for file in row.files] for row in rows],
        "scores": [row.score for row in rows],
        "vectors": [vectors.number(row.vector) for row in rows],
        "ranges": [_encode_ranges(row.introductions, versions, blobs) for row in rows],
        "defects": {str(at): row.defect for at, row in enumerate(rows) if row.defect},
        "contradictions": {
            str(at): _encode_contradictions(row, versions) for at, row in enumerate(rows) if row.contradictions
        },
        "doubts": {str(at): row.doubt for at, row in enumerate(rows) if row.doubt},
        "older": [at for at, row in enumerate(rows) if row.older],
        "reasons": [records.overrides[name].overridden for name in overridden],
        "rejected": sorted(records.rejected, key=id_order),
        "newest": records.newest.isoformat() if records.newest is not None else "",
        "origin": [records.origin.kind, records.origin.revision],
        "findings": [[found.code, found.name, found.message] for found in records.findings.named],
        "counts": dict(records.findings.counts),
        "table": {"versions": list(versions.numbers), "files": list(files.numbers), "vectors": list(vectors.numbers)},
    }
    blobs += b"".join(records.marks.get(name, _NO_MARK) for name in names)
    packed = zlib.compress(json.dumps(tables, separators=(",", ":"), ensure_ascii=False).encode(), 9)
    body = len(packed).to_bytes(8) + packed + bytes(blobs)
    return MAGIC + f"{_FORMAT}\n{sha256(body)}\n".encode() + body


def _encode_ranges(introductions: Iterable[Introduction], versions: _Table, blobs: bytearray) -> list[list[int]]:
    """Return one list per introduction: its version, then those of its fixes; append their commits to `blobs`."""
    ranges = []
    for group in introductions:
        ranges.append([versions.number(str(of)) for of in (group.version, *(fix.version for fix in group.fixes))])
        for commit in (group.commit, *(fix.commit for fix in group.fixes)):
            blobs += bytes.fromhex(commit) if commit else bytes(_COMMIT_BYTES)
    return ranges


def _encode_contradictions(record: Record, versions: _Table) -> list[list[int]]:
    """Return one list per contradiction: its first version, its end (-1 for none), `affected` and `alone` as 0 or 1."""
    return [
        [
            versions.number(str(one.first)),
            -1 if one.end is None else versions.number(str(one.end)),
            int(one.affected),
            int(one.alone),
        ]
        for one in record.contradictions
    ]


def _decode_contradictions(rows: Iterable[list[int]], versions: list[KernelVersion]) -> tuple[Contradiction, ...]:
    return tuple(
        Contradiction(versions[first], None if end == -1 else versions[end], affected == 1, alone == 1)
        for first, end, affected, alone in rows
    )


def _decode(body: bytes) -> Records:
    """Return the records that `_encode` wrote; raises one of several built-in errors for any other body."""
    length = int.from_bytes(body[:8])
    unpacker = zlib.decompressobj()
    tables: dict[str, Any] = json.loads(unpacker.decompress(body[8 : 8 + length], _TABLES_MAX))
    blobs = body[8 + length :]
    count = len(tables["ids"]) - tables["overrides"]
    commits_end = _COMMIT_BYTES * sum(len(group) for groups in tables["ranges"] for group in groups)
    if not 0 <= count <= len(tables["ids"]) or len(blobs) != commits_end + _MARK_BYTES * count:
        raise ValueError(count)
    rows = _decode_rows(tables, blobs[:commits_end])
    marks = {row.id: blobs[commits_end + at * _MARK_BYTES :][:_MARK_BYTES] for at, row in enumerate(rows[:count])}
    findings = Findings(
        named=[
            RecordFinding(code=code, name=plain(name, 200), message=plain(message, 300))
            for code, name, message in tables["findings"]
        ],
        counts=Counter(tables["counts"]),
    )
    kind, revision = tables["origin"]
    if "contradictions" not in tables:
        # An earlier version made the index and did not look for them: without marks, all records are read again.
        revision, marks = "", {}
    return Records(
        listed={row.id: row for row in rows[:count]},
        newest=datetime.fromisoformat(tables["newest"]) if tables.get("newest") else None,
        rejected=frozenset(tables["rejected"]),
        origin=Origin(kind=kind, revision=revision),
        findings=findings,
        marks={name: mark for name, mark in marks.items() if mark != _NO_MARK},
        overrides={
            row.id: replace(row, overridden=plain(reason, 300))
            for row, reason in zip(rows[count:], tables["reasons"], strict=True)
        },
    )


def _decode_rows(tables: dict[str, Any], blob: bytes) -> list[Record]:
    versions = [_version(text) for text in tables["table"]["versions"]]
    files: list[str] = tables["table"]["files"]
    vectors = [plain(vector, 200) for vector in tables["table"]["vectors"]]
    if not all(inside_tree(file) for file in files) or not all(CVE_ID.fullmatch(name) for name in tables["ids"]):
        raise ValueError("names")
    if not _SCORES.issuperset(tables["scores"]):
        raise ValueError("scores")
    commits = _decode_commits(blob)
    older = frozenset(tables["older"])
    contradicting = tables.get("contradictions", {})
    columns = ("ids", "titles", "files", "ranges", "scores", "vectors")
    return [
        Record(
            id=name,
            title=plain(title, 300),
            files=tuple(files[number] for number in numbers),
            introductions=tuple(
                Introduction(
                    versions[group[0]],
                    next(commits),
                    tuple(FixCommit(versions[number], next(commits)) for number in group[1:]),
                )
                for group in groups
            ),
            score=score,
            vector=vectors[vector],
            defect=plain(tables["defects"].get(str(at), ""), 300),
            older=at in older,
            doubt=plain(tables.get("doubts", {}).get(str(at), ""), 300),
            contradictions=_decode_contradictions(contradicting.get(str(at), ()), versions),
        )
        for at, (name, title, numbers, groups, score, vector) in enumerate(
            zip(*(tables[column] for column in columns), strict=True)
        )
    ]


def _decode_commits(blob: bytes) -> Iterator[str]:
    text, none = blob.hex(), bytes(_COMMIT_BYTES).hex()
    width = len(none)
    for at in range(0, len(text), width):
        commit = text[at : at + width]
        yield "" if commit == none else commit


def _version(text: str) -> KernelVersion:
    version = BEGINNING if text == str(BEGINNING) else listed_version(text)
    if version is None:
        raise ValueError(text)
    return version
