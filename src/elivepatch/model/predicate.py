# SPDX-License-Identifier: GPL-2.0-or-later
"""Predicates: programs that show in a trial whether the hole of a kernel is there (docs/predicates.md, ADR 25)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Digest

CLOSED, OPEN, UNABLE, LATE = 0, 1, 77, 124
"""Exit statuses: the hole is closed, it is open, it cannot be tried here; the last one says that time ran out."""

SUFFIXES = (".c", ".sh")
SOURCE_LIMIT_BYTES = 64 * 1024
SECONDS_LIMIT = 120
"""Seconds that all predicates of one request may have together in each phase of a trial."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}\.(?:c|sh)", re.ASCII)
_LIMITS = re.compile(r"[\s/*#]*elivepatch:\s(.*)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_MODULE = re.compile(r"[A-Za-z0-9_-]{1,55}", re.ASCII)
_HEAD_LINES = 30
_MODULES_MAX = 16
_RANGES = {"seconds": (1, 30), "memory": (4, 256), "output": (1, 60), "processes": (1, 256)}
_ADVICE = "Write `elivepatch: seconds=5 memory=64 output=4 processes=32 modules=ip_tables` in a comment at its top."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a predicate in each phase of a trial, and the modules that the guest loads for it.

    `memory` is in MiB and `output` in KiB; `seconds` are those of a quiet machine.
    """

    seconds: int = 5
    memory: int = 64
    output: int = 4
    processes: int = 32
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicate:
    """A program in C or shell. `name` is that of its file; its suffix is the language.

    Its exit status is 0 if the hole is closed, 1 if it is open, 77 if it cannot be tried here.
    """

    name: str
    source: str

    @classmethod
    def of(cls, name: str, content: bytes) -> Predicate:
        """Return the predicate in a file; raises UsageError if it is none."""
        try:
            source = content.decode()
        except UnicodeDecodeError as error:
            raise _wrong(name, "is not UTF-8 text", "Convert it with iconv -t UTF-8.") from error
        return cls(name=name, source=source).checked()

    def checked(self) -> Predicate:
        """Return self; raises UsageError if the name, the size or a limit is not one that a predicate can have."""
        if not _NAME.fullmatch(self.name):
            raise _wrong(self.name, "is not the name of one", "Name the file NAME.expect.c or NAME.expect.sh.")
        if not self.source.strip() or "\0" in self.source:
            raise _wrong(self.name, "is empty or not text", "Give a program in C or shell.")
        try:
            size = len(self.source.encode())
        except UnicodeEncodeError as error:  # a half of a surrogate pair, which JSON can spell
            raise _wrong(self.name, "has a character that UTF-8 has not", "Give a text in UTF-8.") from error
        if size > SOURCE_LIMIT_BYTES:
            raise _wrong(self.name, f"is larger than {SOURCE_LIMIT_BYTES >> 10} KiB", "Shorten it.")
        read_limits(self.name, self.source)
        return self

    @property
    def language(self) -> str:
        """`c` or `sh`."""
        return self.name.rpartition(".")[2]

    @property
    def digest(self) -> Digest:
        """SHA-256 of the source."""
        return Digest(hashlib.sha256(self.source.encode()).hexdigest())

    @property
    def limits(self) -> Limits:
        """The limits that the source names, with the defaults for the others."""
        return read_limits(self.name, self.source)


def read_limits(name: str, source: str) -> Limits:
    """Return the limits in the comments at the top of a predicate; raises UsageError for an unknown or wrong one."""
    found: dict[str, str] = {}
    for key, value in _words(name, source):
        if key in found:
            raise _wrong(name, f"gives {key} twice", _ADVICE)
        found[key] = value
    modules = tuple(found.pop("modules").split(",")) if "modules" in found else ()
    if len(modules) > _MODULES_MAX or not all(_MODULE.fullmatch(one) for one in modules):
        raise _wrong(name, "names modules that are none", _ADVICE)
    numbers = {}
    for key, value in found.items():
        least, most = _RANGES.get(key, (0, 0))
        if not most:
            raise _wrong(name, f"has an unknown limit {key[:40]!r}", _ADVICE)
        if not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
            raise _wrong(name, f"has {key}={value[:40]}, which is not a number from {least} to {most}", _ADVICE)
        numbers[key] = int(value)
    return Limits(**numbers, modules=tuple(one.replace("-", "_") for one in modules))


def _words(name: str, source: str) -> Iterator[tuple[str, str]]:
    for line in source.splitlines()[:_HEAD_LINES]:
        if (given := _LIMITS.fullmatch(line)) is None:
            continue
        for word in given[1].replace("*/", " ").split():
            key, separator, value = word.partition("=")
            if not separator:
                raise _wrong(name, f"has a limit without a value: {word[:40]!r}", _ADVICE)
            yield key, value


def _wrong(name: str, what: str, advice: str) -> UsageError:
    return UsageError("predicate", f"The predicate {name[:80]!r} {what}.", advice=advice)
