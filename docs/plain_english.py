# SPDX-License-Identifier: GPL-2.0-or-later
"""Lint the project's English: first words of docstrings, and a list of banned phrases.

usage: plain_english.py [PATH ...]

A docstring begins with a verb or a noun. Docstrings, comments, messages and pages avoid phrases that a reader whose
first language is not ours has to decode; the list says what to write instead. Without arguments all of the project
is read. Exits with 1 if anything was found.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "bench", "demo", "docs", "packaging", "tests")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")

HEADLESS = re.compile(r"(What|Where|Who|Whose|How|That|Which|Whether|When|Why|Whatever|Whoever|Nobody|Nothing)\b")

BANNED = {
    r"\b(told|tells?|telling)\b": "report, print, return, show",
    r"\b(whoever|whatever)\b": "name the person or the thing",
    r"\bwhose matter\b": "who is responsible",
    r"\bwhat there is\b": "name it",
    r"\bwhere (there|it|they|this|none|nobody|nothing|somebody)\b": "if",
    r"\b(himself|herself)\b": "name the program",
    r"\banew\b": "again, from scratch",
    r"\b(mend|mends|mended)\b": "fix",
    r"\bheed\b": "follow",
    r"\bgone on from\b": "continued",
    r"\bnobody told\b": "not known",
}
_PATTERNS = {re.compile(pattern, re.IGNORECASE): instead for pattern, instead in BANNED.items()}


class Finding(NamedTuple):
    """One place that breaks a rule."""

    path: Path
    line: int
    what: str


def main() -> int:
    """Print each finding; return the exit status."""
    paths = [Path(argument) for argument in sys.argv[1:]] or [
        *(TOP / folder for folder in FOLDERS),
        *(TOP / page for page in PAGES),
    ]
    findings = [finding for path in paths for file in _files(path) for finding in _lint(file)]
    for finding in findings:
        print(f"{finding.path}:{finding.line}: {finding.what}")  # noqa: T201 - the answer of a command
    return 1 if findings else 0


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in {".py", ".md"} and file != Path(__file__))
    return [path] if path.exists() else []


def _lint(file: Path) -> Iterator[Finding]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        yield from _docstrings(file, text)
        words = _words(text)
    else:
        words = list(enumerate(text.splitlines(), start=1))
    for line, said in words:
        for pattern, instead in _PATTERNS.items():
            if found := pattern.search(said):
                yield Finding(file, line, f"`{found[0]}`: write {instead}")


def _docstrings(file: Path, text: str) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            said = ast.get_docstring(node) or ""
            if HEADLESS.match(said):
                line = node.body[0].lineno
                yield Finding(file, line, f"a docstring begins with `{said.split()[0]}`: begin with a verb or a noun")


def _words(text: str) -> list[tuple[int, str]]:
    """Return the lines of all comments and strings of a Python source, with their numbers."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING}:
            first = token.start[0]
            found += [(first + number, line) for number, line in enumerate(token.string.splitlines())]
    return found


if __name__ == "__main__":
    sys.exit(main())
