# SPDX-License-Identifier: GPL-2.0-or-later
"""House rules that no linter knows: sizes of folders, modules and functions, names, and the one place for locks.

CONTRIBUTING.md and docs/architecture.md describe the house. Import directions are held by import-linter.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2] / "src/elivepatch"
FOLDER_MODULES = 12
MODULE_LINES = 400
FUNCTION_LINES = 50
# Calls that rename, link or lock, by the names of their modules.
RESERVED = {"os": {"replace", "rename", "renames", "link"}, "shutil": {"move"}, "fcntl": {"flock", "lockf"}}


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the product by its path."""
    return {
        path.relative_to(TOP).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(TOP.rglob("*.py"))
    }


def large_folders() -> Iterator[tuple[str, str]]:
    counted = Counter(str(Path(name).parent) for name in modules() if not name.endswith("__init__.py"))
    yield from ((folder, f"{count} modules") for folder, count in counted.items() if count > FOLDER_MODULES)


def long_modules() -> Iterator[tuple[str, str]]:
    for name in modules():
        lines = len((TOP / name).read_text(encoding="utf-8").splitlines())
        if lines > MODULE_LINES:
            yield name, f"{lines} lines"


def long_functions() -> Iterator[tuple[str, str]]:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    yield name, f"{node.name} has {lines} lines"


def activities() -> Iterator[tuple[str, str]]:
    yield from (
        (name, "the name of a module is a noun, not an activity") for name in modules() if name.endswith("ing.py")
    )


def renames_and_locks(tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports or calls that only files/ may: renames, hard links and locks.

    A call of a method `replace` with one argument is that of a path: a string's has two, a date's has names.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(one.name == "fcntl" for one in node.names):
            yield f"line {node.lineno}: imports fcntl"
        elif isinstance(node, ast.ImportFrom) and node.module in RESERVED:
            names = sorted({one.name for one in node.names} & RESERVED[node.module])
            yield from (f"line {node.lineno}: imports {node.module}.{one}" for one in names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, method = node.func.value, node.func.attr
            if isinstance(owner, ast.Name) and method in RESERVED.get(owner.id, ()):
                yield f"line {node.lineno}: calls {owner.id}.{method}"
            elif isinstance(owner, ast.Name) and owner.id in {"dataclasses", "copy"}:
                continue
            elif method in {"replace", "rename", "hardlink_to"} and len(node.args) == 1 and not node.keywords:
                yield f"line {node.lineno}: calls .{method}() of a path"


def reserved_outside_files() -> Iterator[tuple[str, str]]:
    for name, tree in modules().items():
        if not name.startswith("files/"):
            yield from ((name, what) for what in renames_and_locks(tree))


@pytest.mark.parametrize(
    ("rule", "finder"),
    [
        ("folder", large_folders),
        ("module", long_modules),
        ("function", long_functions),
        ("name", activities),
        ("lock", reserved_outside_files),
    ],
)
def test_every_room_keeps_the_rules(rule: str, finder: Callable[[], Iterator[tuple[str, str]]]) -> None:
    assert [f"{place}: {what}" for place, what in finder()] == [], rule


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "import os\nos.replace('a', 'b')",
        "import os\nos.link('a', 'b')",
        "from os import rename",
        "from shutil import move",
        "import shutil\nshutil.move('a', 'b')",
        "staged.replace(path)",
        "(directory / 'a').rename(directory / 'b')",
    ],
)
def test_a_rename_or_a_lock_is_found(source: str) -> None:
    assert len(list(renames_and_locks(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "text.replace('a', 'b')",
        "moment.replace(tzinfo=UTC)",
        "dataclasses.replace(one, name='x')",
        "replace(one, name='x')",
        "path.symlink_to(target)",
        "import os\nos.unlink('a')",
    ],
)
def test_what_only_looks_like_one_is_not(source: str) -> None:
    assert list(renames_and_locks(ast.parse(source))) == []


def test_the_options_of_auto_pass_through_at_most_twelve_modules() -> None:
    passed = {"AutoOptions", "CloseOptions", "PlanOptions"}
    through = {
        name
        for name, tree in modules().items()
        if any(isinstance(node, ast.Name) and node.id in passed for node in ast.walk(tree))
    }
    assert len(through) <= 12, sorted(through)


def test_no_module_below_the_commands_sees_a_namespace() -> None:
    seen = [
        name
        for name, tree in modules().items()
        if not name.startswith(("client/commands/", "service/commands/")) and name != "commandline.py"
        if any(isinstance(node, ast.Attribute | ast.Name) and _name(node) == "Namespace" for node in ast.walk(tree))
    ]
    assert seen == []


def _name(node: ast.Attribute | ast.Name) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id
