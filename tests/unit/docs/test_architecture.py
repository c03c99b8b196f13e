# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/architecture.md and its drawing: they name what is there, and the drawing's arrows are imports."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
HOUSE = TOP / "src/elivepatch"
PAGE = TOP / "docs/architecture.md"
DRAWING = (TOP / "docs/architecture.dot").read_text(encoding="utf-8")
ARROWS = sorted(
    {
        pair
        for line in DRAWING.splitlines()
        if "->" in line and "style=" not in line
        for names in [re.findall(r'"([\w/.]+)"', line)]
        for pair in itertools.pairwise(names)
    }
)


@cache
def imports() -> dict[str, set[str]]:
    """Return what each module imports of the house, both as paths below it without ending."""
    found = {}
    for path in HOUSE.rglob("*.py"):
        named = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("elivepatch"):
                modules = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
                named |= {module.replace(".", "/").removeprefix("elivepatch/") for module in modules}
        found[str(path.relative_to(HOUSE).with_suffix(""))] = named
    return found


def _in(room: str, name: str) -> bool:
    room = room.removesuffix(".py")
    return name == room or name.startswith(f"{room}/")


@pytest.mark.parametrize(("upper", "lower"), ARROWS)
def test_each_arrow_of_the_drawing_is_an_import(upper: str, lower: str) -> None:
    assert any(_in(lower, name) for module, names in imports().items() if _in(upper, module) for name in names)


@pytest.mark.parametrize(("upper", "lower"), ARROWS)
def test_no_arrow_of_the_drawing_has_an_import_against_it(upper: str, lower: str) -> None:
    against = [m for m, names in imports().items() if _in(lower, m) and any(_in(upper, name) for name in names)]
    assert not against


def test_the_drawing_has_every_room() -> None:
    rooms = {path.parent.relative_to(HOUSE) for path in HOUSE.rglob("*.py") if path.name != "__init__.py"}
    missing = {
        str(room)
        for room in rooms
        if str(room) != "." and not any(str(part) in DRAWING for part in (room, *list(room.parents)[:-1]))
    }
    assert not missing


def test_the_drawing_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", TOP / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.drawing_is_current(), "run make docs (Debian: graphviz)"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z_0-9/]+(?:/|\.py|\.toml|\.sh))`", PAGE.read_text()))))
def test_every_path_of_the_page_exists(name: str) -> None:
    assert (HOUSE / name).exists() or (TOP / name).exists()


def test_every_class_of_the_page_exists() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in HOUSE.rglob("*.py"))
    named = set(re.findall(r"`([A-Z]\w+)(?:\.\w+)?`", PAGE.read_text(encoding="utf-8")))
    assert {name for name in named if f"class {name}" not in sources} == set()
