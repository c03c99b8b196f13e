# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranking of CVEs by known exploitation (KEV) and by its probability (EPSS). It never changes a CVE's state."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

from elivepatch.advisory.readers.compressed import DamagedArchive, Unpacked
from elivepatch.advisory.records.record import CVE_ID
from elivepatch.model.errors import UsageError

_FILE_MAX = 256 * 1024 * 1024  # both are below 30 MiB unpacked
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """`exploited` maps an id to the day (ISO 8601) it was added to KEV, `probability` to its EPSS score, 0 to 1."""

    exploited: dict[str, str]
    probability: dict[str, float]


def read_kev(file: Path) -> dict[str, str]:
    """Return id and `dateAdded` of every entry of CISA's Known Exploited Vulnerabilities catalogue, its JSON format.

    Raises UsageError if the file is something else, or has no entry.
    """
    try:
        catalogue = json.loads(_content(file))
        exploited = {
            str(entry["cveID"]): str(entry["dateAdded"])[:10]
            for entry in catalogue["vulnerabilities"]
            if CVE_ID.fullmatch(str(entry["cveID"]))
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _wrong(file, "the KEV catalogue in JSON") from error
    if not exploited:
        raise _wrong(file, "an entry of the KEV catalogue")
    return exploited


def read_epss(file: Path) -> dict[str, float]:
    """Return id and score of every line of FIRST's daily EPSS file, `cve,epss,percentile`, gzip or plain.

    Raises UsageError if the file is something else.
    """
    try:
        lines = io.StringIO(_content(file).decode())
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        scores = {row["cve"]: float(row["epss"]) for row in rows if CVE_ID.fullmatch(row["cve"])}
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise _wrong(file, "EPSS scores in CSV") from error
    if not scores or not all(0 <= score <= 1 for score in scores.values()):
        raise _wrong(file, "EPSS scores in CSV")
    return scores


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            unpacked = Unpacked(opened, limit=_FILE_MAX)
            return b"".join(iter(lambda: unpacked.read(_PIECE), b""))
    except OSError as error:
        raise UsageError(
            "cve-ranking", f"{file} cannot be read: {error.strerror}.", advice="Check the file's name."
        ) from error
    except DamagedArchive as error:
        raise UsageError(
            "cve-ranking", f"{file} cannot be read: {error.why}.", advice="Fetch the file again."
        ) from error


def _wrong(file: Path, wanted: str) -> UsageError:
    return UsageError(
        "cve-ranking", f"{file} does not contain {wanted}.", advice="Give the file as its publisher provides it."
    )
