# SPDX-License-Identifier: GPL-2.0-or-later
"""Bases on disk: what is there, what is damaged, what is removed."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bare_base import bare_base
from elf_maker import Made

from elivepatch.build.base.store import RECIPE, Base, Bases
from elivepatch.files.lock import made_once
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.kernel import BuildId, Digest, Release

OLD, NEW = Release("6.1.0-50-cloud-amd64"), Release("6.12.117+deb13-cloud-amd64")


def base(directory: Path, release: Release = OLD, **changes: Any) -> Base:
    facts: dict[str, Any] = {
        "kind": "stock", "build_id": BuildId("ab"), "version": "6.1.176-1", "config_digest": Digest("1"),
        "toolchain": "debian-12", "toolchain_digest": Digest("2"), "cc": "gcc-12", "compiler": "(Debian 12) 12",
        "ibt": False, "modversions": True, "struct_sizes": {"ALT_STRUCT_SIZE": 12}, "packages": {"a_1": "3"},
        "size_bytes": 10, "seconds": 1.5,
    }  # fmt: skip
    return Base(directory=directory / release, release=release, **(facts | changes))


def kept(directory: Path, release: Release = OLD, **changes: Any) -> Base:
    made = base(directory, release, **changes)
    made.directory.mkdir(parents=True)
    (made.directory / "base.json").write_text(json.dumps(made.as_dict()))
    return made


def test_a_kept_base_comes_back(tmp_path: Path) -> None:
    made = kept(tmp_path)
    assert Bases(tmp_path).get(OLD) == made
    assert Bases(tmp_path).get(OLD).identity.build_id == "ab"


def test_bases_are_listed_by_release_without_half_made_ones(tmp_path: Path) -> None:
    kept(tmp_path, NEW)
    kept(tmp_path)
    (tmp_path / ".6.2.new-abc").mkdir()
    (tmp_path / ".6.2.new-abc/base.json").write_text("half")
    (tmp_path / "6.3").mkdir()
    assert [one.release for one in Bases(tmp_path).list()] == [OLD, NEW]
    assert Bases(tmp_path / "nowhere").list() == []


def test_a_missing_base_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    kept(tmp_path)
    with pytest.raises(EnvironmentFault) as caught:
        Bases(tmp_path).get("6.5.0")
    assert caught.value.problem.code == "kernel-unknown"
    assert OLD in caught.value.problem.message
    assert "kernel add 6.5.0" in caught.value.problem.advice


@pytest.mark.parametrize("release", ["..", "../6.1", "6.1/../../etc", "", "."])
def test_a_release_never_leads_out_of_the_directory(tmp_path: Path, release: str) -> None:
    for ask in (Bases(tmp_path).get, Bases(tmp_path).remove):
        with pytest.raises(UsageError):
            ask(release)


def test_a_base_of_an_older_recipe_is_not_there(tmp_path: Path) -> None:
    kept(tmp_path, recipe=RECIPE - 1)
    assert Bases(tmp_path).find(OLD) is None
    assert Bases(tmp_path).list() == []


def test_a_base_that_was_prepared_with_other_flags_is_not_there(tmp_path: Path) -> None:
    made = kept(tmp_path, section_flags="-ffunction-sections")
    with pytest.raises(EnvironmentFault, match="no base for kernel"):
        Bases(tmp_path).get(made.release)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", json.dumps({"recipe": RECIPE}), json.dumps({"recipe": RECIPE, "odd": 1})]
)
def test_a_damaged_description_is_told_and_can_be_removed(tmp_path: Path, content: str) -> None:
    made = kept(tmp_path)
    (made.directory / "base.json").write_text(content)
    with pytest.raises(EnvironmentFault) as caught:
        Bases(tmp_path).get(OLD)
    assert caught.value.problem.code == "base-damaged"
    assert f"kernel remove {OLD}" in caught.value.problem.advice
    Bases(tmp_path).remove(OLD)
    assert list(tmp_path.iterdir()) == []


def test_a_removed_base_is_gone_with_all_that_was_compiled_for_it(tmp_path: Path) -> None:
    made = kept(tmp_path)
    (made.directory / "originals/ab").mkdir(parents=True)
    Bases(tmp_path).remove(OLD)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EnvironmentFault):
        Bases(tmp_path).remove(OLD)


@pytest.mark.parametrize(
    "change", [{"build_id": BuildId("cd")}, {"config_digest": Digest("9")}, {"toolchain_digest": Digest("9")},
               {"struct_sizes": {"ALT_STRUCT_SIZE": 14}}, {"packages": {"a_1": "4"}}, {"ibt": True}],
)  # fmt: skip
def test_whatever_changes_a_build_changes_the_bases_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    assert base(tmp_path).digest != base(tmp_path, **change).digest


def test_place_size_and_time_do_not_change_the_bases_digest(tmp_path: Path) -> None:
    assert base(tmp_path).digest == replace(base(tmp_path / "x"), size_bytes=99, seconds=99.0).digest


def test_the_symbols_of_a_module_are_read_once(tmp_path: Path) -> None:
    for place in ("modules/kernel", "symbols"):
        (tmp_path / place).mkdir(parents=True)
        Made().section(".text", b"\xc3", code=True).write(tmp_path / place / "a-lamp.ko")
    found = bare_base(tmp_path)
    assert found.parent("a_lamp") is found.parent("a_lamp")


def test_an_unknown_module_of_a_base_is_named(tmp_path: Path) -> None:
    made = kept(tmp_path)
    (made.directory / "modules/kernel").mkdir(parents=True)
    (made.directory / "modules/kernel/snd-hda-intel.ko").touch()
    assert set(made.module_files) == {"snd_hda_intel"}
    with pytest.raises(EnvironmentFault, match="kvm"):
        made.parent("kvm")


def test_the_remains_of_a_killed_process_are_removed_unless_another_is_at_work(tmp_path: Path) -> None:
    bases = Bases(tmp_path)
    for release in ("6.1.0-killed", "6.1.0-busy"):
        (tmp_path / f".{release}.new-abc/tree").mkdir(parents=True)
    (tmp_path / "6.1.0-whole").mkdir()
    with made_once(tmp_path / ".6.1.0-busy.lock"):
        bases.sweep()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [".6.1.0-busy.new-abc", "6.1.0-whole"]
    bases.sweep()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["6.1.0-whole"]


def test_objects_that_killed_processes_left_half_made_go_after_a_day(tmp_path: Path) -> None:
    originals = kept(tmp_path).directory / "originals"
    for name in (".new-killed", ".staged-killed", ".new-busy", "ab" * 16, ".lock-of-one"):
        (originals / name).mkdir(parents=True)
    for name in (".new-killed", ".staged-killed", "ab" * 16):
        os.utime(originals / name, (time.time() - 90_000,) * 2)
    Bases(tmp_path).sweep()
    assert sorted(path.name for path in originals.iterdir()) == sorted([".new-busy", "ab" * 16, ".lock-of-one"])


def test_the_nearest_bases_are_those_of_one_source_then_those_of_one_series(tmp_path: Path) -> None:
    source, later = {"linux-source-6.1_6.1.176-1": "5"}, {"linux-source-6.1_6.1.192-1": "6"}
    made = kept(tmp_path, packages=source)
    kept(tmp_path, NEW, version="6.12.117-1")
    kept(tmp_path, Release("6.1.0-56-amd64"), version="6.1.192-1", packages=later)
    kept(tmp_path, Release("6.1.0-50-amd64"), packages={**source, "b_1": "7"})
    damaged = kept(tmp_path, Release("6.1.0-51-amd64"))
    (damaged.directory / "base.json").write_text("{")
    kept(tmp_path, Release("6.1.0-49-amd64"), recipe=RECIPE - 1)
    kept(tmp_path, Release("6.1.0-48-amd64"), packages=source).directory.rename(
        tmp_path / ".6.1.0-48-amd64.new-removed-1"
    )
    assert [one.release for one in Bases(tmp_path).nearest(made)] == ["6.1.0-50-amd64", "6.1.0-56-amd64", NEW]


def test_few_bases_are_compared_however_many_there_are(tmp_path: Path) -> None:
    made = kept(tmp_path)
    for number in range(60, 70):
        kept(tmp_path, Release(f"6.1.0-{number}-amd64"))
    assert len(Bases(tmp_path).nearest(made)) == 4
