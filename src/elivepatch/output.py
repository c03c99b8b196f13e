# SPDX-License-Identifier: GPL-2.0-or-later
"""Output of commands: JSON on standard output for programs, plain lines for people, progress on standard error."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from elivepatch.model.errors import Problem
from elivepatch.model.progress import Event

_EXCERPT_LINES = 40


def printable(text: str) -> str:
    """Return `text` without control characters for a terminal: it may come from a server, a compiler or a patch."""
    return "".join(
        character for character in text if character == "\t" or unicodedata.category(character) not in {"Cc", "Cf"}
    )


@dataclass(slots=True)
class Output:
    """Writer of one command's output. With `as_json`, standard output carries one JSON document and nothing else."""

    as_json: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    _started: float = field(default_factory=time.monotonic)
    _open_line: bool = False
    _documented: bool = False

    def document(self, data: Any) -> None:
        """Print the one JSON document of this command, if JSON was requested."""
        if self.as_json:
            self._write_document(json.dumps(data, indent=2, default=str))

    def follow(self, other: Output) -> None:
        """Count the document that `other` has printed as this one's: both write to the same places."""
        self._documented = self._documented or other._documented

    def listing(self, items: Iterable[Any]) -> None:
        """Print the one JSON document of this command: a list, one element a line, which is fast for thousands."""
        if self.as_json:
            lines = ",\n".join(json.dumps(item, default=str) for item in items)
            self._write_document(f"[\n{lines}\n]" if lines else "[]")

    def _write_document(self, text: str) -> None:
        # The text is complete before any of it is printed: a failure or an interruption on the way would leave half a
        # document in front of the one that reports it.
        self._close_line()
        self._documented = True
        self.out.write(text + "\n")

    def line(self, text: str = "") -> None:
        """Print a line for people, unless JSON was requested."""
        if not self.as_json:
            self._close_line()
            self.out.write(printable(text) + "\n")
            self.out.flush()

    def verbatim(self, text: str) -> None:
        """Print text for people and programs, unless JSON was requested: unchanged, except on a terminal."""
        if not self.as_json:
            self._close_line()
            self.out.write("\n".join(map(printable, text.split("\n"))) if self.out.isatty() else text)
            self.out.flush()

    def note(self, text: str) -> None:
        """Print a line for people on standard error, also if JSON was requested."""
        self._close_line()
        self.err.write(printable(text) + "\n")
        self.err.flush()

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a plain table with aligned columns."""
        cells = [tuple(header), *[tuple(printable(str(cell)) for cell in row) for row in rows]]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for row in cells:
            self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def progress(self, event: Event) -> None:
        """Show the current step: on a terminal one line that is rewritten, elsewhere plain lines."""
        seconds = time.monotonic() - self._started
        share = f" {event.fraction:4.0%}" if event.fraction is not None else ""
        text = printable(f"[{seconds:6.1f} s]{share} {event.stage}: {event.message}")
        if self.err.isatty():
            self.err.write("\r\x1b[K" + text[:200])
            self._open_line = True
        elif event.fraction in {None, 0.0, 1.0}:
            self.err.write(text + "\n")
        self.err.flush()

    def problem(self, problem: Problem) -> None:
        """Print a problem with its advice; on standard error if the command has printed its document already."""
        if self.as_json and not self._documented:
            self.document({"problem": problem.as_dict()})
            return
        self.note(f"error: {problem.message} [{problem.code}]")
        for line in problem.excerpt.splitlines()[:_EXCERPT_LINES]:
            self.note(f"    {line}")
        self.note(f"hint: {problem.advice}")

    def _close_line(self) -> None:
        if self._open_line:
            self.err.write("\r\x1b[K")
            self.err.flush()
            self._open_line = False
