# SPDX-License-Identifier: GPL-2.0-or-later
"""CVEs from before the kernel assigned its own: the two JSON files of the project linux_kernel_cves, frozen in 2024.

`kernel_cves.json` maps an id to mainline's data (`affected_versions`, from the version that brought the bug up to the
one that fixed it, with `breaks` and `fixes` as commits, each possibly unknown), `stream_fixes.json` to the fix of every
stable branch (`cmt_id`, `fixed_version`). They name no files.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.version import BEGINNING, KernelVersion, listed_version
from elivepatch.advisory.records.cve5 import cvss_of
from elivepatch.advisory.records.record import COMMIT, CVE_ID, Findings, FixCommit, Introduction, Record, Records, plain
from elivepatch.files.bounded import Unusable, read_regular
from elivepatch.model.errors import UsageError

_MAINLINE = "kernel_cves.json"
_STREAMS = "stream_fixes.json"
_FILE_MAX = 64 * 1024 * 1024  # both are below 5 MiB
_RECORDS_MAX = 50_000
_UNKNOWN = "unk"
_AFFECTED = re.compile(r"(unk|v[0-9][0-9.a-z-]{0,30}) to (unk|v[0-9][0-9.a-z-]{0,30})")
_TITLE_MAX = 300


def with_older(records: Records, directory: Path, findings: Findings) -> Records:
    """Return the records, completed with those of the two files that the list neither has nor has withdrawn.

    The files are in `directory`, or in its `data` as a clone has them; an entry that is no record goes to `findings`.
    Raises UsageError if a file is missing or something else.
    """
    place = directory / "data" if (directory / "data" / _MAINLINE).exists() else directory
    mainline, streams = _table(place / _MAINLINE), _table(place / _STREAMS)
    added: dict[str, Record] = {}
    for name, entry in mainline.items():
        if not CVE_ID.fullmatch(name) or not isinstance(entry, dict):
            findings.add("bad-record", name, "It is not an entry about a CVE and is left out.")
        elif name not in records.listed and name not in records.rejected and entry.get("rejected") is not True:
            added[name] = _record(name, entry, streams.get(name, {}))
    return replace(records, listed=records.listed | added)


def _table(file: Path) -> dict[str, Any]:
    read = read_regular(file, _FILE_MAX)
    if isinstance(read, Unusable):
        raise _wrong(file, read.why)
    try:
        table = json.loads(read[0])
    except (ValueError, RecursionError) as error:
        raise _wrong(file, "It is not JSON.") from error
    if not isinstance(table, dict) or len(table) > _RECORDS_MAX:
        raise _wrong(file, "It is not a table of CVEs.")
    return table


def _record(name: str, entry: dict[str, Any], streams: Any) -> Record:
    introductions = _introductions(entry, streams)
    defect = introductions if isinstance(introductions, str) else ""
    score, vector = cvss_of(entry.get("cvss3"), score="score", vector="raw")
    title = entry.get("cmt_msg") or entry.get("nvd_text")
    return Record(
        id=name,
        title=plain(title, _TITLE_MAX) if isinstance(title, str) else "",
        introductions=() if isinstance(introductions, str) else introductions,
        score=score,
        vector=vector,
        defect=defect,
        older=True,
    )


def _introductions(entry: dict[str, Any], streams: Any) -> tuple[Introduction, ...] | str:
    """Return the one introduction with all its fixes, or one sentence with the reason that the entry has none."""
    versions = _AFFECTED.fullmatch(str(entry.get("affected_versions", "")))
    if versions is None:
        return "Its affected versions cannot be read."
    begin = BEGINNING if versions[1] == _UNKNOWN else _tagged(versions[1])
    end = None if versions[2] == _UNKNOWN else _tagged(versions[2])
    if begin is None or (end is None and versions[2] != _UNKNOWN):
        return "Its affected versions name one that cannot exist."
    fixes = [] if end is None else [FixCommit(end, _commit(entry.get("fixes")))]
    for stream in streams.values() if isinstance(streams, dict) else ():
        fix = _stream_fix(stream)
        if fix is None:
            return "The fix of one of its branches cannot be read."
        fixes.append(fix)
    if not fixes:
        return "It names no fix, so it is not known which versions still have the bug."
    return (Introduction(begin, _commit(entry.get("breaks")), tuple(fixes)),)


def _tagged(tag: str) -> KernelVersion | None:
    # The first candidate of 5.12 lost data: its tag is v5.12-rc1-dontuse.
    return listed_version(tag.removeprefix("v").removesuffix("-dontuse"))


def _stream_fix(stream: Any) -> FixCommit | None:
    if not isinstance(stream, dict):
        return None
    version: KernelVersion | None = listed_version(str(stream.get("fixed_version", "")))
    return None if version is None else FixCommit(version, _commit(stream.get("cmt_id")))


def _commit(value: Any) -> str:
    return value if isinstance(value, str) and COMMIT.fullmatch(value) else ""


def _wrong(file: Path, why: str) -> UsageError:
    return UsageError(
        "cve-older",
        f"{file} cannot be used: {why}",
        advice=f"Give a directory with {_MAINLINE} and {_STREAMS}, or a clone that has them in data/.",
    )
