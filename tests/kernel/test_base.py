# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock bases: signed packages only, the shipped kernel only, and nothing half-made is ever seen."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elivepatch.build.archive.apt import Archive, Package
from elivepatch.build.base import stock
from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.stock import StockMaker
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.base.tree import config_gate
from elivepatch.build.sample.fidelity import prove_base
from elivepatch.kernel.config import parse_config
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.progress import Event
from elivepatch.service.jobs.local_backend import LocalBackend

pytestmark = pytest.mark.kernel


class Stop(Exception):
    """Interruption of a base under construction."""


@pytest.fixture(scope="module")
def own_archive(archive: Archive, shared_path: Path) -> Archive:
    """The signed indexes as they are, but a place for packages that tests may damage."""
    archive.refresh()
    made = Archive(shared_path / "archive")
    (made.directory / "lists/partial").mkdir(parents=True)
    for path in (archive.directory / "lists").iterdir():
        if path.is_file() and path.name != "lock":
            os.link(path, made.directory / "lists" / path.name)
    (made.directory / "refreshed").touch()
    return made


@pytest.fixture(scope="module")
def headers(own_archive: Archive, base_6_1: Base) -> Package:
    """The smallest package of a kernel."""
    return own_archive.find(f"linux-headers-{base_6_1.release}", base_6_1.version)


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "longer"])
def test_a_damaged_package_in_the_cache_is_noticed_and_fetched_anew(
    archive: Archive, own_archive: Archive, headers: Package, damage: str
) -> None:
    (good,) = archive.download([headers])
    content = good.read_bytes()
    own_archive.packages_dir.mkdir(exist_ok=True)
    kept = own_archive.packages_dir / good.name
    kept.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "one byte": content[:-1] + bytes([content[-1] ^ 1]),
            "empty": b"",
            "longer": content + b"\0",
        }[damage]
    )
    events: list[Event] = []
    (path,) = own_archive.download([headers], events.append)
    assert path == kept
    assert path.read_bytes() == content
    assert any(event.stage == "download" for event in events)


def test_a_good_package_in_the_cache_is_not_fetched_again(own_archive: Archive, headers: Package) -> None:
    own_archive.download([headers])
    events: list[Event] = []
    own_archive.download([headers], events.append)
    assert events == []


def test_a_download_that_is_not_what_the_signed_index_names_is_thrown_away(
    own_archive: Archive, headers: Package
) -> None:
    other = replace(headers, sha256="0" * 64)
    with pytest.raises(EnvironmentFault) as caught:
        own_archive.download([other])
    assert caught.value.problem.code == "package-damaged"
    assert not (own_archive.packages_dir / f"{other.sha256}.deb").exists()


def test_the_sources_keep_their_time_so_that_apt_reads_its_indexes_once(own_archive: Archive, headers: Package) -> None:
    """If its sources are newer than apt's cache of the indexes, each process reads these again, which takes seconds."""
    written = own_archive.directory / "etc/sources.d/elivepatch.list"
    before = written.stat().st_mtime_ns
    assert Archive(own_archive.directory).find(headers.name, headers.version) == headers
    assert written.stat().st_mtime_ns == before


def test_a_version_that_is_gone_from_the_archive_is_told(own_archive: Archive, base_6_1: Base) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        own_archive.find(f"linux-headers-{base_6_1.release}", "6.1.1-1")
    assert caught.value.problem.code == "package-missing"


def test_an_archive_whose_signatures_do_not_hold_gives_nothing(
    archive: Archive, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyless = Archive(shared_path / "keyless")
    (shared_path / "empty.gpg").touch()
    monkeypatch.setattr("elivepatch.build.archive.apt._KEYRING", shared_path / "empty.gpg")
    with pytest.raises(EnvironmentFault) as caught:
        keyless.refresh()
    assert caught.value.problem.code == "archive-unreadable"
    assert not (keyless.directory / "refreshed").exists()


def test_a_release_that_no_archive_knows_is_told(backend: LocalBackend) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        backend.maker().add("6.1.0-999-cloud-amd64")
    assert caught.value.problem.code == "kernel-not-in-archive"
    assert "6.1.0-999-cloud-amd64" in caught.value.problem.message


def maker(backend: LocalBackend, directory: Path, stop_at: str) -> StockMaker:
    """Return a maker of bases in another directory that is stopped when it reports a stage."""

    def stop(event: Event) -> None:
        if stop_at in event.message:
            raise Stop

    return StockMaker(backend.archive, BaseContext(backend.toolchains, Bases(directory), 2, prove_base, stop))


def test_a_base_whose_making_was_interrupted_is_not_there(
    backend: LocalBackend, base_6_1: Base, reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack = stock._unpack

    def unpack_some(package: Path, into: Path) -> None:
        if into.exists() and any(into.iterdir()):
            assert (into / "boot").is_dir(), "half of the base is there"
            raise Stop
        unpack(package, into)

    monkeypatch.setattr(stock, "_unpack", unpack_some)
    with pytest.raises(Stop):
        maker(backend, reachable_path, "never").add(base_6_1.release)
    assert Bases(reachable_path).list() == []
    assert [path.name for path in reachable_path.iterdir()] == [f".{base_6_1.release}.lock"]


@pytest.mark.extended
def test_an_interruption_ends_both_halves_of_the_making_at_once(
    backend: LocalBackend, base_6_1: Base, reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is prepared while the debug information is read, which takes much longer than this test waits."""
    times: dict[str, float] = {}
    remove = shutil.rmtree

    def interrupt(event: Event) -> None:
        if "preparing the source tree" in event.message:
            times["interrupted"] = time.monotonic()
            raise KeyboardInterrupt

    def clear_away(path: Path, **how: Any) -> None:
        if path.parent == reachable_path:
            times["ended"] = time.monotonic()
        remove(path, **how)

    monkeypatch.setattr("elivepatch.build.base.common.shutil.rmtree", clear_away)
    context = BaseContext(backend.toolchains, Bases(reachable_path), 2, prove_base, interrupt)
    with pytest.raises(KeyboardInterrupt):
        StockMaker(backend.archive, context).add(base_6_1.release)
    assert times["ended"] - times["interrupted"] < 5
    assert [path.name for path in reachable_path.iterdir()] == [f".{base_6_1.release}.lock"]


def test_what_a_killed_process_left_is_cleared_by_the_next(
    backend: LocalBackend, base_6_1: Base, reachable_path: Path
) -> None:
    ours, others = reachable_path / f".{base_6_1.release}.new-left", reachable_path / ".6.9.9-amd64.new-busy"
    for left in (ours, others, reachable_path / base_6_1.release):
        (left / "tree").mkdir(parents=True)
    with pytest.raises(Stop):
        maker(backend, reachable_path, "looking at").add(base_6_1.release)
    assert not ours.exists()
    assert not (reachable_path / base_6_1.release).exists()
    assert others.exists(), "another kernel may be in the making"


def test_a_base_that_is_there_is_not_made_again(backend: LocalBackend, base_6_1: Base) -> None:
    assert maker(backend, backend.bases.directory, base_6_1.release).add(base_6_1.release) == base_6_1


def test_the_prepared_configuration_is_the_shipped_one_and_a_lost_option_is_noticed(base: Base) -> None:
    prepared = parse_config((base.tree / ".config").read_bytes())
    assert prepared.enabled("LIVEPATCH")
    assert prepared.enabled("X86_KERNEL_IBT") == base.ibt
    config_gate(prepared, prepared, base.release)
    lost = parse_config((base.tree / ".config").read_bytes().replace(b"CONFIG_DEBUG_INFO_BTF_MODULES=y\n", b""))
    with pytest.raises(EnvironmentFault) as caught:
        config_gate(prepared, lost, base.release)
    assert caught.value.problem.code == "config-gate"
    assert caught.value.problem.excerpt == "CONFIG_DEBUG_INFO_BTF_MODULES: y became n"


def test_a_base_holds_the_shipped_kernel(base: Base) -> None:
    vmlinux = ElfFile(base.directory / "vmlinux")
    assert vmlinux.build_id == base.build_id
    assert f"GCC: {base.compiler}".encode() in vmlinux.named(".comment")
    assert (base.directory / "vmlinuz").stat().st_size > 5 << 20
    assert base.modversions
    module = ElfFile(base.module_files["8021q"])
    assert module.modinfo["vermagic"][0].startswith(f"{base.release} SMP")
    assert base.size_bytes < 4 << 30


def test_a_sample_of_the_functions_of_a_base_was_compared_with_its_kernel(base: Base) -> None:
    assert base.fidelity["identical"] == base.fidelity["functions"] >= 200
    assert base.fidelity["failed"] == 0


def test_the_special_structures_have_the_sizes_of_their_kernel(base_6_1: Base, base_6_12: Base) -> None:
    assert (base_6_1.struct_sizes["ALT_STRUCT_SIZE"], base_6_1.struct_sizes["PARA_STRUCT_SIZE"]) == (12, 16)
    assert (base_6_12.struct_sizes["ALT_STRUCT_SIZE"], base_6_12.struct_sizes["PARA_STRUCT_SIZE"]) == (14, 0)


def test_every_object_has_a_parent_that_is_there(base: Base) -> None:
    parents = {parent for unit in base.units.by_source.values() for parent in unit.parents}
    assert len(base.units.by_source) > 4000
    assert parents - {"vmlinux"} <= base.module_files.keys()


def test_no_stock_kernel_holds_objects_that_cannot_be_told_apart(base: Base) -> None:
    """Such objects would be refused as duplicate-symbol; those without static symbols are no matter."""
    for blocks in base.vmlinux.blocks.values():
        told = [block.names for block in blocks if block.names]
        assert len(told) == len(set(told))


def test_what_a_build_must_not_change_belongs_to_root(base: Base) -> None:
    for name in ("vmlinux", "vmlinuz", "units.json", "base.json", "originals"):
        info = (base.directory / name).stat()
        assert (info.st_uid, info.st_mode & 0o022) == (0, 0), name
    for name in ("sectioned.o", "command"):
        assert {path.stat().st_uid for path in (base.directory / "originals").glob(f"*/{name}")} <= {0}
