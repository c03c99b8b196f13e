# SPDX-License-Identifier: GPL-2.0-or-later
"""The `.json` file of a record, a CVE record of format 5: title, files, score, withdrawal."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from elivepatch.advisory.records.published_ranges import PublishedRanges, parse_ranges
from elivepatch.advisory.records.record import plain

_FILES_MAX = 500
_TITLE_MAX = 300
_VECTOR = re.compile(r"CVSS:3\.[01](?:/[A-Z]{1,3}:[A-Z]){8,30}")
_SOURCE_FILE = re.compile(r"[A-Za-z0-9_.+,@=~ -]+(?:/[A-Za-z0-9_.+,@=~ -]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Fields of a record's JSON that are used. `odd_files` are file names that cannot be paths inside a source tree."""

    title: str
    files: tuple[str, ...]
    odd_files: tuple[str, ...]
    score: int | None
    vector: str
    rejected: bool
    ranges: PublishedRanges


def parse_published(content: bytes, name: str) -> Published | str:
    """Return the fields of the JSON of the CVE `name`, or one sentence with the reason that it cannot be used.

    The fields are `cveMetadata.cveId` (older records write `cveID`) and `.state`, and in `containers.cna` the `title`,
    the first CVSS 3.1 entry of `metrics`, and `affected[].programFiles` (github.com/CVEProject/cve-schema, 5.1).
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"Its JSON cannot be read: {type(error).__name__}."
    metadata = _mapping(_mapping(data).get("cveMetadata"))
    given = metadata.get("cveId", metadata.get("cveID"))
    if given != name:
        return "Its JSON has no id." if given is None else f"Its JSON is that of {plain(str(given), 40)!r}."
    state = metadata.get("state")
    if state not in {"PUBLISHED", "REJECTED"}:
        return "Its JSON does not show whether it is published." if state is None else "Its JSON has an unknown state."
    cna = _mapping(_mapping(_mapping(data).get("containers")).get("cna"))
    if not cna:
        return "Its JSON has no part of the authority that assigned it."
    title = cna.get("title")
    files = {
        str(file)[:400] for part in _list(cna.get("affected")) for file in _list(_mapping(part).get("programFiles"))
    }
    kept = tuple(sorted(file for file in files if inside_tree(file)))[:_FILES_MAX]
    score, vector = _cvss(cna)
    return Published(
        title=plain(title, _TITLE_MAX) if isinstance(title, str) else "",
        files=kept,
        odd_files=tuple(sorted(file for file in files if not inside_tree(file))),
        score=score,
        vector=vector,
        rejected=state == "REJECTED",
        ranges=parse_ranges(_list(cna.get("affected"))),
    )


def inside_tree(file: str) -> bool:
    """Return whether `file` can be a path inside a kernel's source tree: relative, without `..`, plain characters."""
    return _SOURCE_FILE.fullmatch(file) is not None and not {".", ".."} & set(file.split("/"))


def cvss_of(entry: Any, *, score: str, vector: str) -> tuple[int | None, str]:
    """Return the score (in tenths) and the vector that a CVSS 3 entry holds under these keys, None and "" for none."""
    number, text = _mapping(entry).get(score), _mapping(entry).get(vector)
    try:
        value = float(number) if isinstance(number, (int, float, str)) else -1.0
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        return None, ""
    return round(value * 10), text if isinstance(text, str) and _VECTOR.fullmatch(text) else ""


def _cvss(cna: dict[str, Any]) -> tuple[int | None, str]:
    entries = (_mapping(metric).get("cvssV3_1") for metric in _list(cna.get("metrics")))
    scored = (cvss_of(entry, score="baseScore", vector="vectorString") for entry in entries)
    return next((one for one in scored if one[0] is not None), (None, ""))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
