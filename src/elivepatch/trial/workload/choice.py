# SPDX-License-Identifier: GPL-2.0-or-later
"""Choice of a workload: the programs that run the replaced functions, by the sources of these functions.

table.toml says what runs for which sources. The most specific pattern of a source decides; its programs get the names
of the sources, so that one program can serve a whole directory of similar files.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath

from elivepatch.model.build import PatchedFunction

_STEM = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ARGUMENTS_LIMIT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One entry of the table.

    `sources` are patterns of fnmatch for paths in the kernel's source. `file` is in programs/ and gets `words` before
    the names of the sources. `modules` are those of the kernel that it needs, `tools` the programs of this machine that
    it calls, `devices` options of QEMU for devices that its drivers need; `what` says what it does.
    """

    name: str
    file: str
    sources: tuple[str, ...]
    what: str
    words: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A program and its arguments: the names of the sources that it is for, without directory and suffix."""

    program: Program
    arguments: tuple[str, ...]


@cache
def table() -> tuple[Program, ...]:
    """Return the table of programs."""
    read = tomllib.loads(files("elivepatch.trial.workload").joinpath("table.toml").read_text(encoding="utf-8"))
    return tuple(
        Program(
            name=one["name"],
            file=one["file"],
            sources=tuple(one["sources"]),
            what=one["what"],
            words=tuple(one.get("words", ())),
            modules=tuple(one.get("modules", ())),
            tools=tuple(one.get("tools", ())),
            devices=tuple(one.get("devices", ())),
        )
        for one in read["program"]
    )


def choose(functions: Iterable[PatchedFunction], programs: Sequence[Program] | None = None) -> tuple[Chosen, ...]:
    """Return the programs for the sources of `functions`, in the order of the table, each once."""
    listed = table() if programs is None else programs
    wanted: dict[str, list[str]] = {}
    for source in sorted({function.source for function in functions}):
        for program in _programs_of(source, listed):
            wanted.setdefault(program.name, []).append(PurePosixPath(source).stem)
    return tuple(
        Chosen(program=program, arguments=(*program.words, *_arguments(wanted[program.name])))
        for program in listed
        if program.name in wanted
    )


def _programs_of(source: str, programs: Sequence[Program]) -> list[Program]:
    ranks = [(_rank(source, program), program) for program in programs]
    best = max((rank for rank, _program in ranks), default=0)
    return [program for rank, program in ranks if rank == best > 0]


def _rank(source: str, program: Program) -> int:
    """Return how specific the best pattern for `source` is, 0 if none matches."""
    # The number of characters that are no wildcards, and one more, so that `*` alone is better than nothing.
    matching = [pattern for pattern in program.sources if fnmatch.fnmatchcase(source, pattern)]
    return max((len(pattern.replace("*", "")) + 1 for pattern in matching), default=0)


def _arguments(names: Iterable[str]) -> tuple[str, ...]:
    # They become words of a line that the guest's shell splits.
    return tuple(dict.fromkeys(name for name in names if _STEM.fullmatch(name)))[:_ARGUMENTS_LIMIT]
