# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps that every base takes: publication on the disk, and modules decompressed by programs in the sandbox."""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from bare_base import bare_base
from deadline import wait_until
from outside import OutsideSandbox

from elivepatch.build.base.common import BaseContext, decompress_modules
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.base.toolchain import HELPER, Toolchains
from elivepatch.build.sample.fidelity import prove_base
from elivepatch.files import atomic
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import Release

MODULE = b"\x7fELF module"
RELEASE = Release("6.12.117-own")


def modules(directory: Path) -> Path:
    top = directory / "modules"
    (top / "kernel/fs").mkdir(parents=True)
    (top / "kernel/fs/a.ko.xz").write_bytes(lzma.compress(MODULE + b"a"))
    (top / "kernel/b c.ko.gz").write_bytes(gzip.compress(MODULE + b"b"))
    (top / "kernel/plain.ko").write_bytes(MODULE)
    (top / "modules.builtin").write_bytes(b"kernel/x.ko\n")
    return top


def test_modules_are_decompressed_in_place(tmp_path: Path) -> None:
    top, outside = modules(tmp_path), OutsideSandbox()
    decompress_modules(top, outside.sandbox)
    assert sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()) == [
        "kernel/b c.ko", "kernel/fs/a.ko", "kernel/plain.ko", "modules.builtin",
    ]  # fmt: skip
    assert (top / "kernel/fs/a.ko").read_bytes() == MODULE + b"a"
    assert (top / "kernel/b c.ko").read_bytes() == MODULE + b"b"
    assert [path.name for path in tmp_path.iterdir()] == ["modules"]


def test_no_program_runs_when_no_module_is_compressed(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/a.ko").write_bytes(MODULE)
    outside = OutsideSandbox()
    decompress_modules(tmp_path / "modules", outside.sandbox)
    assert outside.programs == []


def test_a_damaged_module_stops_the_base(tmp_path: Path) -> None:
    top = modules(tmp_path)
    (top / "kernel/fs/a.ko.xz").write_bytes(b"\xfd7zXZ\0 and no more")
    with pytest.raises(EnvironmentFault):
        decompress_modules(top, OutsideSandbox().sandbox)


def test_a_link_that_a_program_leaves_in_place_of_a_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"of the host")

    def leaves(output: Path) -> None:
        (output / "kernel/fs/a.ko").unlink()
        (output / "kernel/fs/a.ko").symlink_to(tmp_path / "secret")

    with pytest.raises(EnvironmentFault) as caught:
        decompress_modules(modules(tmp_path), OutsideSandbox(leaves=leaves).sandbox)
    assert caught.value.problem.code == "sandbox-output"


def test_a_link_beside_a_compressed_module_is_not_written_through(tmp_path: Path) -> None:
    top = modules(tmp_path)
    (tmp_path / "secret").write_bytes(b"of the host")
    (top / "kernel/fs/a.ko").symlink_to(tmp_path / "secret")
    with pytest.raises(EnvironmentFault):
        decompress_modules(top, OutsideSandbox().sandbox)
    assert (tmp_path / "secret").read_bytes() == b"of the host"


def test_a_base_that_jobs_still_use_gives_way_to_the_new_one(tmp_path: Path) -> None:
    """A job puts objects into the base by its name, so that a removal file by file would never end."""
    bases = Bases(tmp_path / "bases")
    originals = bases.directory / RELEASE / "originals"
    originals.mkdir(parents=True)
    gone, stop = threading.Event(), threading.Event()

    def job() -> None:
        for number in itertools.count():
            try:
                (originals / f"{number}.o").touch()
            except FileNotFoundError:
                gone.set()
                return
            if stop.is_set():
                return

    def make(scratch: Path) -> Base:
        assert gone.wait(timeout=10)
        made = bare_base(scratch, RELEASE)
        made.save(scratch)
        return replace(made, directory=bases.directory / RELEASE)

    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(job)
        wait_until(lambda: any(originals.iterdir()))
        try:
            BaseContext(cast("Toolchains", None), bases, 1, prove_base).publish(RELEASE, make)
        finally:
            stop.set()
    assert {path.name for path in (bases.directory / RELEASE).iterdir()} == {"base.json", "tree"}


def test_a_base_is_on_the_disk_before_anybody_can_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = Bases(tmp_path / "bases")
    published: list[tuple[str, bool]] = []
    real = atomic.publish_tree

    def publish_tree(staged: Path, place: Path) -> None:
        published.append((place.name, (staged / "base.json").exists()))
        real(staged, place)

    monkeypatch.setattr("elivepatch.build.base.common.publish_tree", publish_tree)

    def make(scratch: Path) -> Base:
        made = bare_base(scratch, RELEASE)
        made.save(scratch)
        return replace(made, directory=bases.directory / RELEASE)

    context = BaseContext(cast("Toolchains", None), bases, 1, prove_base)
    assert context.publish(RELEASE, make).directory == bases.directory / RELEASE
    assert published == [(RELEASE, True)]
    assert bases.get(RELEASE).release == RELEASE


def with_source(scratch: Path, bases: Bases, release: str, text: str) -> Base:
    made = bare_base(scratch, release)
    for path in (scratch / "tree/fs/a.c", scratch / "tree/Makefile"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("all:\n" * 3000 if path.name == "Makefile" else text)
        os.utime(path, (946684800, 946684800))
    return replace(made, directory=bases.directory / release)


def test_bases_share_what_is_equal_in_their_sources_and_outlive_each_other(tmp_path: Path) -> None:
    bases = Bases(tmp_path / "bases")
    context = BaseContext(cast("Toolchains", None), bases, 1, prove_base)
    texts = {"6.1.0-50-amd64": "int a;", "6.1.0-50-cloud-amd64": "int a;", "6.1.0-51-amd64": "int b;"}
    made = {
        release: context.publish(Release(release), partial(with_source, bases=bases, release=release, text=text))
        for release, text in texts.items()
    }
    files = {name: {base.tree / name for base in made.values()} for name in ("Makefile", "fs/a.c")}
    assert {name: len({path.stat().st_ino for path in paths}) for name, paths in files.items()} == {
        "Makefile": 1, "fs/a.c": 2,
    }  # fmt: skip
    first, second, _ = (bases.get(release).size_bytes for release in texts)
    assert first - second >= 15000, "the size is what a base adds to the disk"
    bases.remove("6.1.0-50-amd64")
    assert (made["6.1.0-50-cloud-amd64"].tree / "fs/a.c").read_text() == "int a;"
    assert (made["6.1.0-51-amd64"].tree / "Makefile").read_text().startswith("all:")


def test_the_programs_that_read_a_kernel_are_there_on_a_server_that_has_no_toolchain_yet() -> None:
    made: list[str] = []

    class NoToolchains:
        def add(self, name: str, _progress: object) -> str:
            made.append(name)
            return f"the toolchain {name}"

        def sandbox(self, toolchain: str) -> str:
            return f"a sandbox in {toolchain}"

    context = BaseContext(cast("Toolchains", NoToolchains()), Bases(Path("/nowhere")), 1, prove=lambda *_: {})
    assert cast("str", context.helper_sandbox()) == f"a sandbox in the toolchain {HELPER}"
    assert made == [HELPER]
