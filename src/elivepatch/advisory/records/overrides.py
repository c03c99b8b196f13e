# SPDX-License-Identifier: GPL-2.0-or-later
"""Overrides: records that an administrator writes to replace or complete those of the CVE list.

A TOML file with one table for each CVE: `why` (required) gives the reason; `title` and `files` replace the list's if
given; `ranges` replaces all of its ranges, each with `introduced` and `introduced_commit` (both left out if not
known), and `fixed` and `fixed_commit` (both left out if there is no fix). A CVE that the list does not have needs
`title` and `ranges`. docs/cve.md has an example.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from elivepatch.advisory.records.cve5 import inside_tree
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.record import CVE_ID, Introduction, Record, plain
from elivepatch.model.errors import UsageError

_FILE_MAX = 4 * 1024 * 1024
_KEYS = {"why", "title", "files", "ranges"}
_RANGE_KEYS = ("introduced", "introduced_commit", "fixed", "fixed_commit")


def read_overrides(file: Path, listed: Mapping[str, Record]) -> dict[str, Record]:
    """Return the records of `file`, completed with those of the list.

    Raises UsageError that names the table and the key for the first thing in the file that cannot be used: people
    write it, so nothing in it is skipped silently.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_FILE_MAX + 1)
        if len(content) > _FILE_MAX:
            raise _wrong(file, f"it is larger than {_FILE_MAX // 2**20} MiB")
        tables = tomllib.loads(content.decode())
    except OSError as error:
        raise _wrong(file, error.strerror or "it cannot be read") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong(file, f"it is not TOML ({plain(str(error), 120)})") from error
    return {name: _override(file, name, table, listed.get(name)) for name, table in tables.items()}


def _override(file: Path, name: str, table: Any, listed: Record | None) -> Record:
    if not CVE_ID.fullmatch(name):
        raise _wrong(file, f"{plain(name, 60)!r} is not the id of a CVE")
    if not isinstance(table, dict) or set(table) - _KEYS:
        raise _wrong(file, f"{name} may have only the keys {', '.join(sorted(_KEYS))}")
    why, title, files = table.get("why"), table.get("title", ""), table.get("files", [])
    if not isinstance(why, str) or not why.strip():
        raise _wrong(file, f"{name} has no `why`")
    if not isinstance(title, str):
        raise _wrong(file, f"the title of {name} is not a text")
    if not isinstance(files, list) or not all(isinstance(path, str) and inside_tree(path) for path in files):
        raise _wrong(file, f"the files of {name} are not paths inside the kernel's source")
    if listed is None and not (title and "ranges" in table):
        raise _wrong(file, f"{name} is not in the list and needs a title and ranges")
    record = listed or Record(id=name, title="")
    record = replace(record, overridden=plain(why, 300), title=plain(title, 300) or record.title)
    if files:
        record = replace(record, files=tuple(files))
    if "ranges" in table:
        ranges = _ranges(file, name, table["ranges"])
        record = replace(record, introductions=ranges, defect="", contradictions=(), doubt="")
    return record


def _ranges(file: Path, name: str, ranges: Any) -> tuple[Introduction, ...]:
    """Read the ranges by writing them as the list does, so that one parser decides what is possible."""
    lines = []
    for given in ranges if isinstance(ranges, list) else [None]:
        if not isinstance(given, dict) or set(given) - set(_RANGE_KEYS):
            raise _wrong(file, f"a range of {name} may have only the keys {', '.join(_RANGE_KEYS)}")
        values = [given.get(key, "0") for key in _RANGE_KEYS]
        if not all(isinstance(value, str) and value.isprintable() and ":" not in value for value in values):
            # 5.10 without quotes is the number 5.1 to TOML
            raise _wrong(file, f"a range of {name} has a value that is not a version or commit in quotes")
        lines.append(":".join(values))
    read = parse_dyad("\n".join(lines))
    if isinstance(read, str):
        raise _wrong(file, f"the ranges of {name} cannot be used: {read}")
    return read


def _wrong(file: Path, what: str) -> UsageError:
    return UsageError(
        "cve-overrides",
        f"The overrides file {file} cannot be used: {what.rstrip('.')}.",
        advice="Fix that entry; docs/cve.md shows what a table may contain.",
    )
