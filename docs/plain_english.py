# SPDX-License-Identifier: GPL-2.0-or-later
"""Lint the project's English: first words of docstrings, and a list of banned phrases.

usage: plain_english.py [PATH ...]

A docstring begins with a verb or a noun, and no sentence of a docstring or a comment begins with a headless clause
("What it misses it misses."). Docstrings, comments, messages and pages avoid phrases that a reader whose first
language is not English has to decode; the list names the words to use instead. Reads Python sources, pages, and the
comments of shell scripts and units; without arguments, those of the whole project. Exits with 1 if it found anything,
with 2 if a path does not exist.
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
PAGES = ("Makefile", "README.md", "CONTRIBUTING.md", "SECURITY.md")

# A list of banned phrases holds them all.
EXCLUDED = {Path(__file__).resolve(), TOP / "tests/unit/docs/test_plain_english.py"}

HEADLESS = re.compile(r"(What|Where|Who|Whose|How|That|Which|Whether|When|Why|Whatever|Whoever|Nobody|Nothing)\b")
# The same inside a docstring or a comment, where "When" and "That is why" are plain English. A question is none.
SENTENCE = re.compile(r"(?:^|[.;:] )((?:What|Where|Who|Whose|Whoever|Whatever) [a-z][^.?]*)(?=[.;]|$)")

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
    r"\b(none|empty|true|false|raises? \w+|and \d|[;,:] \d) where\b": "if",
    r"\bwhere [^.,;]{1,40} (cannot|is missing|is not|are missing|does not|do not|fails?)\b": "if",
    r"\bwho (asks|waits|looks)\b": "the client, the user, the caller",
    r"\bspeaks? (for|against)\b": "allow, prevent, be a reason for",
    r"\b(as it stands|once for all|let be)\b": "unchanged, once, leave",
}
_F_STRING = re.compile(r"[rR]?[fF]")
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
    if missing := [path for path in paths if not path.exists() and path.parent != TOP]:
        print(f"{missing[0]} does not exist", file=sys.stderr)  # noqa: T201 - the answer of a command
        return 2
    findings = [finding for path in paths for file in _files(path) for finding in _lint(file)]
    for finding in findings:
        print(f"{finding.path}:{finding.line}: {finding.what}")  # noqa: T201 - the answer of a command
    return 1 if findings else 0


def _files(path: Path) -> list[Path]:
    """Return the files to read: those that are named, and in a folder those of a kind that is known."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    return [file for file in found if file.is_file() and file.resolve() not in EXCLUDED and _kind(file) is not None]


def _kind(file: Path) -> str | None:
    if file.suffix in {".py", ".md"}:
        return file.suffix
    # Completions, man pages and figures are generated from what is read elsewhere.
    if ("packaging" in file.parts and file.suffix in {"", ".sh", ".service", ".timer"}) or file.name == "Makefile":
        return "shell"
    return None


def _lint(file: Path) -> Iterator[Finding]:
    text = file.read_text(encoding="utf-8")
    kind = _kind(file)
    if kind == ".py":
        yield from _docstrings(file, text)
        yield from _comments(file, text)
        lines = _words(text)
    elif kind == "shell":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if "#" in line]
    else:
        lines = list(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        for pattern, instead in _PATTERNS.items():
            if found := pattern.search(line):
                yield Finding(file, number, f"`{found[0]}`: write {instead}")


def _docstrings(file: Path, text: str) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            said = ast.get_docstring(node) or ""
            line = node.body[0].lineno if node.body else 1
            if HEADLESS.match(said):
                yield Finding(file, line, f"a docstring begins with `{said.split()[0]}`: begin with a verb or a noun")
            yield from _sentences(file, line, said.partition(" ")[2])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            # The docstring of a constant stands below it; those of modules, classes and functions are read above.
            said = str(node.value.value)
            if HEADLESS.match(said):
                word = said.split()[0]
                yield Finding(file, node.lineno, f"a docstring begins with `{word}`: begin with a verb or a noun")


def _comments(file: Path, text: str) -> Iterator[Finding]:
    """Find headless sentences in comments; lines of comment one below the other are one text."""
    block: list[str] = []
    first = last = -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last + 1:
            yield from _sentences(file, first, " ".join(block))
            block, first = [], token.start[0]
        block.append(token.string.lstrip("#: "))
        last = token.start[0]
    yield from _sentences(file, first, " ".join(block))


def _sentences(file: Path, line: int, text: str) -> Iterator[Finding]:
    for found in SENTENCE.finditer(" ".join(text.split())):
        yield Finding(file, line, f"a sentence begins `{found[1][:30]}`: begin with the subject, or with `If`")


def _words(text: str) -> list[tuple[int, str]]:
    """Return the lines of all comments and strings of a Python source, with their numbers."""
    found = []
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            first = token.start[0]
            # Expressions inside an f-string are code.
            text = re.sub(r"\{[^{}]*\}", "{}", token.string) if _F_STRING.match(token.string) else token.string
            found += [(first + number, line) for number, line in enumerate(text.splitlines())]
    return found


if __name__ == "__main__":
    sys.exit(main())
