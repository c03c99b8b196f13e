# SPDX-License-Identifier: GPL-2.0-or-later
"""The lint of the project's English: each rule finds its pattern and leaves plain sentences alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from elivepatch import process

LINT = Path(__file__).parents[3] / "docs/plain_english.py"


def findings(tmp_path: Path, text: str, name: str = "module.py") -> list[str]:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    done = process.run([sys.executable, LINT, str(tmp_path)])
    lines = done.text.splitlines()
    assert done.status == (1 if lines else 0), done.text
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('"""What a base is made of."""\n', 1, "a docstring begins with `What`"),
        ('class A:\n    """Whether it runs."""\n', 2, "a docstring begins with `Whether`"),
        ('def f():\n    """Return it.\n\n    What it misses it misses."""\n', 2, "begins `What it misses it"),
        ("x = 1\n# Where nothing is pinned, all pass.\n", 2, "begins `Where nothing is pinned"),
        ("# Keys of the store. What is\n# put there stays.\n", 1, "begins `What is put there stays`"),
        ('print("the server told us")\n', 1, "`told`: write report"),
        ('"""Return the base.\n\n    None where it is missing."""\n', 3, "write if"),
        ('x = f"{1} speaks against it"\n', 1, "`speaks against`"),
        ("# Start anew.\n", 1, "`anew`: write again"),
        ('help = "its key, where the file does not have it"\n', 1, "write if"),
    ],
)
def test_a_pattern_is_found_with_its_line_and_a_better_word(tmp_path: Path, text: str, line: int, words: str) -> None:
    found = findings(tmp_path, text)
    assert any(one.startswith(f"{line}: ") and words in one for one in found), found


@pytest.mark.parametrize(
    "text",
    [
        '"""Return what a base is made of."""\n',
        '"""Read the file that the kernel wrote. When it is damaged, raise."""\n',
        "# What is this? An answer to a question.\n",
        "# That is why the lock comes first.\n",
        "told = 1  # names of variables are code\nprint(f'{told:>3}')\n",
        '"""Return the directory where the server keeps bases."""\n',
        "# Where: the directory of the store\n",
    ],
)
def test_plain_sentences_and_code_pass(tmp_path: Path, text: str) -> None:
    assert findings(tmp_path, text) == []


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("page.md", "# Use\n\nThe server tells the client.\n", 1),
        ("packaging/setup", "#!/bin/sh\n# Start anew.\ntell=anew\n", 1),
        ("packaging/server.service", "# Start anew.\n[Unit]\nDescription=told\n", 1),
        ("packaging/tool.bash", "# Start anew.\n", 0),
        ("Makefile", "all: ## whatever\n\ttold\n", 1),
        ("data.json", '"told"\n', 0),
    ],
)
def test_pages_and_comments_of_scripts_are_read_too(tmp_path: Path, name: str, text: str, count: int) -> None:
    assert len(findings(tmp_path, text, name)) == count


def test_a_missing_path_is_no_finding_of_another(tmp_path: Path) -> None:
    done = process.run([sys.executable, LINT, str(tmp_path / "none")])
    assert done.status == 2
    assert "does not exist" in done.tail()
