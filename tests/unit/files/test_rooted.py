# SPDX-License-Identifier: GPL-2.0-or-later
"""Names in another root: a link is read as that root reads it, and never leads out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.files.rooted import Followed, follow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    for name in ("usr/bin/gcc-12", "usr/lib/libc.so.6"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("file")
    for name, target in (
        ("lib", "usr/lib"), ("usr/bin/cc", "/etc/alternatives/cc"), ("etc/alternatives/cc", "/usr/bin/gcc"),
        ("usr/bin/gcc", "../bin/gcc-12"), ("usr/lib/circle", "circle"), ("usr/lib/out", "../../../../secret"),
        ("usr/lib/gone", "nothing"),
    ):  # fmt: skip
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).symlink_to(target)
    (tmp_path / "secret").write_text("of the host")
    return top


@pytest.mark.parametrize(
    ("name", "found", "links"),
    [
        ("/usr/bin/gcc-12", "usr/bin/gcc-12", ()),
        ("usr/bin/cc", "usr/bin/gcc-12", ("usr/bin/cc", "etc/alternatives/cc", "usr/bin/gcc")),
        ("/lib/libc.so.6", "usr/lib/libc.so.6", ("lib",)),
        ("/lib/../lib/libc.so.6", "usr/lib/libc.so.6", ("lib",)),
        ("../../usr/lib/libc.so.6", "usr/lib/libc.so.6", ()),
    ],
)
def test_a_name_leads_to_its_file_with_the_links_on_the_way(
    root: Path, name: str, found: str, links: tuple[str, ...]
) -> None:
    seen = follow(root, name)
    assert seen is not None
    assert seen.name == found
    assert set(links) <= set(seen.links)


@pytest.mark.parametrize("name", ["usr/lib/circle", "usr/lib/out", "usr/lib/gone", "missing"])
def test_a_circle_a_way_out_and_nothing_lead_nowhere(root: Path, name: str) -> None:
    assert follow(root, name) is None


def test_the_root_itself_is_above_everything(root: Path) -> None:
    assert follow(root, "/") == Followed("", ())
