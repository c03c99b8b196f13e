# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/unit mirrors src/elivepatch: the tests of a room are in the folder of the same name."""

from __future__ import annotations

from pathlib import Path

UNIT = Path(__file__).parent
HOUSE = Path(__file__).parents[2] / "src/elivepatch"
# Folders of the checkout beside src, and data that several rooms' tests read.
BESIDE = {"bench", "data", "docs", "packaging"}
# Rooms that are tested through the room that holds them.
WITH_THEIR_PARENT = {
    "client/commands/cve", "client/commands/host", "client/commands/jobs", "client/commands/livepatch",
    "service/db/migrations", "service/http/routes",
}  # fmt: skip


def folders(top: Path, pattern: str) -> set[str]:
    return {str(file.parent.relative_to(top)) for file in top.rglob(pattern)} - {"."}


def outside(names: set[str], excepted: set[str]) -> set[str]:
    return {name for name in names if not any(name == one or name.startswith(f"{one}/") for one in excepted)}


def test_each_folder_of_unit_tests_is_a_room() -> None:
    assert outside(folders(UNIT, "*.py"), BESIDE) - folders(HOUSE, "*.py") == set()


def test_each_room_has_unit_tests() -> None:
    rooms = {str(Path(file).parent) for file in _modules()}
    tested = folders(UNIT, "test_*.py")
    missing = {
        room
        for room in outside(rooms, WITH_THEIR_PARENT)
        if not any(f"{one}/".startswith(f"{room}/") for one in tested)
    }
    assert missing == set()


def test_each_folder_beside_the_rooms_exists_in_the_checkout() -> None:
    checkout = Path(__file__).parents[2]
    assert all((checkout / name).is_dir() for name in BESIDE - {"data"})


def _modules() -> list[str]:
    found = [file.relative_to(HOUSE) for file in HOUSE.rglob("*.py") if file.name != "__init__.py"]
    return [str(file) for file in found if len(file.parts) > 1]
