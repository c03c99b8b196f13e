# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a build that ran a stranger's makefiles: only plain files become part of a base."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.build.kept.files import make_module_tree
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import Release

RELEASE = "6.12.117-own"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Make the output of a build, with the links that `make modules_install` leaves."""
    installed = tmp_path / "built/lib/modules" / RELEASE
    (installed / "kernel/fs").mkdir(parents=True)
    (installed / "kernel/fs/a.ko").write_bytes(b"with debug information")
    (installed / "modules.dep").write_bytes(b"kernel/fs/a.ko:\n")
    (installed / "build").symlink_to("/")
    (tmp_path / "symbols").mkdir()
    (tmp_path / "symbols/a.ko").write_bytes(b"stripped")
    (tmp_path / "secret").write_bytes(b"of the host")
    return tmp_path / "built"


def made(built: Path) -> dict[str, bytes]:
    top = built.parent
    make_module_tree(built, Release(RELEASE), top / "symbols", top / "aside", top / "modules")
    return {
        str(path.relative_to(top / "modules")): path.read_bytes()
        for path in (top / "modules").rglob("*")
        if path.is_file()
    }


def test_modules_come_stripped_with_the_tables_beside_them(built: Path) -> None:
    assert made(built) == {"kernel/fs/a.ko": b"stripped", "modules.dep": b"kernel/fs/a.ko:\n"}


def test_links_are_left_out(built: Path) -> None:
    (built / f"lib/modules/{RELEASE}/modules.alias").symlink_to(built.parent / "secret")
    (built / f"lib/modules/{RELEASE}/kernel/away").symlink_to(built.parent)
    assert b"of the host" not in made(built).values()


def test_a_link_in_place_of_the_directory_is_refused(built: Path) -> None:
    (built / "lib").rename(built.parent / "elsewhere")
    (built / "lib").symlink_to(built.parent / "elsewhere")
    with pytest.raises(EnvironmentFault) as caught:
        made(built)
    assert caught.value.problem.code == "sandbox-output"
