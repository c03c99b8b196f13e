# SPDX-License-Identifier: GPL-2.0-or-later
"""Contents of a root: what its digest covers, and where its links lead inside of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.build.roots.contents import digest_of, find_program, resolve


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/bin/gcc-12").write_text("program")
    (top / "usr/bin/gcc-12").chmod(0o755)
    (top / "bin").symlink_to("usr/bin")
    return top


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("usr/bin/gcc", "gcc-12"),
        ("usr/bin/gcc", "/usr/bin/gcc-12"),
        ("usr/bin/gcc", "/bin/gcc-12"),
        ("usr/bin/gcc", "../../../../../../bin/gcc-12"),
    ],
)
def test_a_link_leads_where_the_sandbox_would_see_it_lead(root: Path, link: str, target: str) -> None:
    (root / link).symlink_to(target)
    assert find_program(root, "gcc") == "usr/bin/gcc-12"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "gcc", "/usr/bin/missing", "/usr"])
def test_a_link_to_the_host_to_itself_or_to_nothing_is_no_program(root: Path, target: str) -> None:
    (root / "usr/bin/gcc").symlink_to(target)
    assert find_program(root, "gcc") is None


def test_a_file_that_cannot_be_run_is_no_program(root: Path) -> None:
    (root / "usr/bin/gcc-12").chmod(0o644)
    assert find_program(root, "gcc-12") is None


def test_the_name_of_a_link_to_itself_ends_the_search(root: Path) -> None:
    (root / "usr/a").symlink_to("b")
    (root / "usr/b").symlink_to("/usr/a")
    assert resolve(root, "usr/a/x") is None


_PARTS = st.sampled_from(["a", "b", "..", ".", "/", "etc", "usr/bin", "/a/b"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a/c", "usr/d"]), st.lists(_PARTS, min_size=1)), max_size=4),
       st.lists(_PARTS, min_size=1))  # fmt: skip
def test_no_link_ever_leads_out_of_the_root(links: list[tuple[str, list[str]]], asked: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory) / "root"
        (top / "usr/bin").mkdir(parents=True)
        for name, target in links:
            place = top / name
            if not os.path.lexists(place) and place.parent.is_dir() and not place.parent.is_symlink():
                place.symlink_to("/".join(target))
        found = resolve(top, "/".join(asked))
        if found is not None:
            inside = top / found
            assert inside.resolve() == inside.absolute()
            assert top in (inside, *inside.parents)


def test_a_name_that_is_no_text_is_part_of_the_digest(root: Path) -> None:
    before = digest_of(root)
    Path(os.fsdecode(os.fsencode(root) + b"/usr/\xff")).write_text("odd")
    assert digest_of(root)[0] != before[0]
