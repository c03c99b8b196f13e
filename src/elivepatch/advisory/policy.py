# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy of an administrator: the CVEs to close and the sources of fixes, in a TOML file (docs/closing.md).

An unknown key, a value of another kind or an impossible CVE is an error that names it. Only sources listed in the file
are fetched.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from pathlib import Path
from typing import Any

from elivepatch.advisory.records.record import CVE_ID, SEVERITIES, plain
from elivepatch.model.errors import UsageError

_FILE_MAX = 1024 * 1024
_LISTED_MAX = 10_000
_PLACES_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place that fixes may come from. `kind` is directory, git, http or overlays; `where` a path or URL."""

    kind: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Hours of `elivepatch auto`: from `start` to `end`, local time, past midnight if `end` is the earlier."""

    start: time
    end: time

    def contains(self, now: time) -> bool:
        """Return whether `now` lies in the window; its end does not."""
        if self.start <= self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Values of the file, by the names of its keys.

    A CVE is chosen from `severity` on, without a score if `unrated`, and at any severity if the KEV catalogue lists it;
    with `loaded_only` only if its code is loaded now. Its fix must be `min_age_days` old. `include` and `exclude`
    override all these. At most `max_functions` functions are live at once. With `thorough` each series is also tried on
    the server's debugging kernel.
    """

    severity: str = "none"
    unrated: bool = True
    loaded_only: bool = False
    min_age_days: int = 0
    include: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    max_functions: int = 1000
    kev: Path | None = None
    epss: Path | None = None
    records: Path | None = None
    overrides: Path | None = None
    older: Path | None = None
    places: tuple[Place, ...] = ()
    window: Window | None = None
    jitter_s: int = 0
    limit_s: int = 3600
    thorough: bool = False


def read_policy(file: Path) -> Policy:
    """Return the policy in `file`; raises UsageError that names the first key or value that cannot be used."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_FILE_MAX + 1)
        tables = tomllib.loads(content[:_FILE_MAX].decode())
    except OSError as error:
        raise UsageError(
            "policy",
            f"The policy {file} cannot be read: {error.strerror}.",
            advice="Write one as docs/closing.md shows: it lists the sources that fixes may come from.",
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong(file, f"it is not TOML ({plain(str(error), 120)})") from error
    return _Reader(file).policy(tables)


@dataclass(slots=True)
class _Reader:
    file: Path
    known: Mapping[str, set[str]] = field(
        default_factory=lambda: {
            "choose": {
                "severity", "unrated", "loaded_only", "min_age_days", "include", "exclude", "max_functions",
            },
            "records": {"source", "older", "overrides", "kev", "epss"},
            "auto": {"window", "jitter_minutes", "limit_minutes", "thorough"},
        }
    )  # fmt: skip

    def policy(self, tables: dict[str, Any]) -> Policy:
        for name in tables:
            if name not in {*self.known, "fixes"}:
                raise _wrong(self.file, f"it has an unknown table {plain(name, 40)!r}")
        choose, records, auto = (self._table(tables, name) for name in self.known)
        severity = choose.get("severity", "none")
        if severity not in SEVERITIES:
            raise _wrong(self.file, f"choose.severity is not one of {', '.join(SEVERITIES)}")
        return Policy(
            severity=severity,
            unrated=self._flag(choose, "unrated", default=True),
            loaded_only=self._flag(choose, "loaded_only", default=False),
            min_age_days=self._number(choose, "min_age_days", 0, 3650),
            include=self._ids(choose, "include"),
            exclude=self._ids(choose, "exclude"),
            max_functions=self._number(choose, "max_functions", 1000, 100_000),
            records=self._path(records, "source"),
            overrides=self._path(records, "overrides"),
            older=self._path(records, "older"),
            kev=self._path(records, "kev"),
            epss=self._path(records, "epss"),
            places=self._places(tables.get("fixes", [])),
            window=self._window(auto),
            jitter_s=60 * self._number(auto, "jitter_minutes", 0, 24 * 60),
            limit_s=60 * self._number(auto, "limit_minutes", 60, 24 * 60),
            thorough=self._flag(auto, "thorough", default=False),
        )

    def _table(self, tables: dict[str, Any], name: str) -> dict[str, Any]:
        table = tables.get(name, {})
        if not isinstance(table, dict):
            raise _wrong(self.file, f"{name} is not a table")
        for key in table:
            if key not in self.known[name]:
                raise _wrong(self.file, f"{name} has an unknown key {plain(key, 40)!r}")
        return table

    def _flag(self, table: dict[str, Any], key: str, *, default: bool) -> bool:
        value = table.get(key, default)
        if not isinstance(value, bool):
            raise _wrong(self.file, f"{key} is not true or false")
        return value

    def _number(self, table: dict[str, Any], key: str, default: int, most: int) -> int:
        value = table.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise _wrong(self.file, f"{key} is not a whole number from 0 to {most}")
        return value

    def _ids(self, table: dict[str, Any], key: str) -> frozenset[str]:
        value = table.get(key, [])
        if not isinstance(value, list) or len(value) > _LISTED_MAX:
            raise _wrong(self.file, f"{key} is not a list of CVEs")
        for name in value:
            if not isinstance(name, str) or not CVE_ID.fullmatch(name):
                raise _wrong(self.file, f"{key} has {plain(str(name), 40)!r}, which is not the id of a CVE")
        return frozenset(value)

    def _path(self, table: dict[str, Any], key: str) -> Path | None:
        value = table.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise _wrong(self.file, f"{key} is not an absolute path")
        return Path(value)

    def _places(self, entries: Any) -> tuple[Place, ...]:
        if not isinstance(entries, list) or len(entries) > _PLACES_MAX:
            raise _wrong(self.file, "fixes is not a list of tables: write [[fixes]]")
        places = []
        for entry in entries:
            if not isinstance(entry, dict) or len(entry) != 1:
                raise _wrong(self.file, "each [[fixes]] names one of directory, git, http, overlays and nothing else")
            ((kind, where),) = entry.items()
            if kind == "overlays" and where is True:
                places.append(Place(kind=kind, where=""))
            elif kind in {"directory", "git", "http"} and isinstance(where, str) and where and where.isprintable():
                if kind == "directory" and not where.startswith("/"):
                    raise _wrong(self.file, "the directory of a [[fixes]] is not an absolute path")
                places.append(Place(kind=kind, where=where))
            else:
                raise _wrong(self.file, f"a [[fixes]] has {plain(str(kind), 40)!r} with a value that it cannot have")
        return tuple(places)

    def _window(self, auto: dict[str, Any]) -> Window | None:
        value = auto.get("window")
        if value is None:
            return None
        try:
            start, end = (time.fromisoformat(part.strip()) for part in value.split("-"))
        except (AttributeError, ValueError) as error:
            raise _wrong(self.file, 'window is not of the form "02:00-05:30"') from error
        return Window(start=start, end=end)


def _wrong(file: Path, what: str) -> UsageError:
    return UsageError("policy", f"The policy {file} cannot be used: {what}.", advice="docs/closing.md shows the keys.")
