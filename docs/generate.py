# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the generated pages of docs/, the man pages and the completions. A unit test fails if one is out of date."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import shtab

from elivepatch.client import commands as client_commands
from elivepatch.commandline import build_parser
from elivepatch.model.codes import CODES, NOTES, RULES
from elivepatch.process import run
from elivepatch.service import commands as server_commands

TOP = Path(__file__).parent.parent
DRAWING_SOURCE, DRAWING = TOP / "docs/architecture.dot", TOP / "docs/architecture.svg"
SCHEMAS = TOP / "src/elivepatch/client/schemas"
# argparse folds help to the width of the terminal; pages must not depend on whose that is.
os.environ["COLUMNS"] = "100"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return both command lines, whole."""
    return {
        "elivepatch": build_parser("elivepatch", "Change a running Linux kernel without a reboot.", client_commands),
        "elivepatch-server": build_parser(
            "elivepatch-server", "Build livepatches and try them in a VM.", server_commands
        ),
    }


def codes_page() -> str:
    """Return docs/codes.md."""
    lines = [
        "# Codes",
        "",
        "Results of checking a source patch. `elivepatch build` and `elivepatch check` print the code in brackets,",
        "reports carry it as `problem.code`. The kind decides the exit status: `verdict` 3 (cannot be a livepatch),",
        "`failure` 1 (the patch's own fault), `error` 4 (ours). Made from `elivepatch.model.codes`.",
        "",
        "| code | kind | it means that | what to do |",
        "| --- | --- | --- | --- |",
    ]
    for code, entry in sorted(CODES.items()):
        lines.append(f"| `{code}` | {entry.kind} | {entry.meaning} | {entry.advice} |")
    lines += [
        "",
        "A livepatch, or a verdict that one is possible, can come with notes:",
        "",
        "| note | it means that |",
        "| --- | --- |",
        *(f"| `{code}` | {meaning} |" for code, meaning in sorted(NOTES.items())),
        "",
        "Each difference between the original and the patched object is in the livepatch, is refused, or a rule",
        "explains it. The JSON of `check` and `build` lists these (`explained`: `rule`, `source`, `what`):",
        "",
        "| rule | it means that |",
        "| --- | --- |",
        *(f"| `{rule}` | {meaning} |" for rule, meaning in sorted(RULES.items())),
    ]
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return docs/commands.md."""
    parts = ["# Commands\n\nWhat `--help` prints, made from the code.\n"]
    schemas = {
        f"elivepatch {command}": file for command, file in json.loads((SCHEMAS / "index.json").read_text()).items()
    }
    for parser in parsers().values():
        for one in _all(parser):
            parts.append(f"## {one.prog}\n\n```\n{one.format_help().rstrip()}\n```\n")
            if file := schemas.get(one.prog):
                parts.append(
                    f"`--json` prints what [{file}]({os.path.relpath(SCHEMAS, TOP / 'docs')}/{file}) describes.\n"
                )
    return "\n".join(parts)


def man_page(name: str, section: int) -> str:
    """Return a man page of one command, in roff's man macros (man(7))."""
    parser = parsers()[name]
    lines = [f'.TH {name.upper()} {section} "" elivepatch', ".SH NAME", f"{name} \\- {_roff(parser.description or '')}"]
    lines += [".SH SYNOPSIS", f".B {name}", ".I COMMAND", "[options]", ".SH COMMANDS"]
    for one in list(_all(parser))[1:]:
        lines += [f".SS {_roff(one.prog.removeprefix(name).strip())}", ".nf", _roff(one.format_help().rstrip()), ".fi"]
    lines += [".SH EXIT STATUS", "0 done, 1 the patch cannot be built or its trial failed, 2 usage,"]
    lines += ["3 cannot be a livepatch, 4 server or network, 5 trust, 6 host, 130 interrupted."]
    return "\n".join(lines) + "\n"


def completion(name: str, shell: str) -> str:
    """Return a shell's completion for one command."""
    return str(shtab.complete(parsers()[name], shell))


def _roff(text: str) -> str:
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def _all(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its subcommands, at any depth, by name."""
    yield parser
    # argparse has no public way to ask for its subcommands.
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name in sorted(action.choices):
                yield from _all(action.choices[name])


PAGES: dict[str, Callable[[], str]] = {
    "docs/codes.md": codes_page,
    "docs/commands.md": commands_page,
    "packaging/man/elivepatch.1": lambda: man_page("elivepatch", 1),
    "packaging/man/elivepatch-server.8": lambda: man_page("elivepatch-server", 8),
    "packaging/completion/elivepatch.bash": lambda: completion("elivepatch", "bash"),
    "packaging/completion/elivepatch.zsh": lambda: completion("elivepatch", "zsh"),
    "packaging/completion/elivepatch-server.bash": lambda: completion("elivepatch-server", "bash"),
    "packaging/completion/elivepatch-server.zsh": lambda: completion("elivepatch-server", "zsh"),
}


def drawing_is_current() -> bool:
    """Return whether architecture.svg was drawn from architecture.dot as it is now."""
    return DRAWING.exists() and _mark() in DRAWING.read_text(encoding="utf-8")


def draw() -> None:
    """Draw architecture.svg with Graphviz.

    Its layout depends on the machine's fonts, so a mark with the digest of the source says whether it is current.
    """
    drawn = run(["dot", "-Tsvg", str(DRAWING_SOURCE)], timeout_s=60.0).check("Drawing the house (Debian: graphviz)")
    DRAWING.write_text(drawn.text.rstrip() + f"\n{_mark()}\n", encoding="utf-8")


def _mark() -> str:
    return f"<!-- drawn from architecture.dot, SHA-256 {hashlib.sha256(DRAWING_SOURCE.read_bytes()).hexdigest()} -->"


def main() -> int:
    """Write all pages."""
    if not drawing_is_current():
        draw()
    for name, page in PAGES.items():
        path = TOP / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page().rstrip() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
