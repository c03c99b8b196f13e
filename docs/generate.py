# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the pages of docs/ that are made from the code: `make docs`; a unit test says when they are out of date."""

from __future__ import annotations

import sys
from pathlib import Path

from elivepatch.model.codes import CODES

HERE = Path(__file__).parent


def codes_page() -> str:
    """Return docs/codes.md."""
    lines = [
        "# Codes",
        "",
        "What a source patch can be told. `elivepatch build` and `elivepatch check` print the code in brackets,",
        "reports carry it as `problem.code`. The kind decides the exit status: `verdict` 3 (cannot be a livepatch),",
        "`failure` 1 (the patch's own fault), `error` 4 (ours). Made from `elivepatch.model.codes`.",
        "",
        "| code | kind | it means that | what to do |",
        "| --- | --- | --- | --- |",
    ]
    for code, entry in sorted(CODES.items()):
        lines.append(f"| `{code}` | {entry.kind} | {entry.meaning} | {entry.advice} |")
    return "\n".join(lines) + "\n"


PAGES = {"codes.md": codes_page}


def main() -> int:
    """Write all pages."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
