# SPDX-License-Identifier: GPL-2.0-or-later
"""Toolchains: real root file systems, known by what is in them."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.store import Base
from elivepatch.build.base.toolchain import Toolchains
from elivepatch.build.sample.fidelity import prove_base
from elivepatch.build.sandbox.bubblewrap import MOUNT_POINTS
from elivepatch.kernel.config import KernelConfig, parse_config
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.progress import Event
from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend

pytestmark = pytest.mark.kernel


class Stop(Exception):
    """Interruption of a toolchain under construction."""


def test_a_toolchain_is_found_by_what_its_kernels_objects_say(backend: LocalBackend, base: Base) -> None:
    found = backend.toolchains.for_kernel(f"gcc {base.compiler}", rust=False)
    assert (found.name, found.digest) == (base.toolchain, base.toolchain_digest)
    comments = ElfFile(base.directory / "vmlinux").named(".comment").split(b"\0")
    assert found.comment.encode() in comments


def test_a_toolchain_has_room_for_what_the_sandbox_shows(backend: LocalBackend, base: Base) -> None:
    root = backend.toolchains.get(base.toolchain).root
    assert all((root / name).is_dir() and not list((root / name).iterdir()) for name in MOUNT_POINTS)


def test_the_helper_has_the_tools_in_the_versions_that_are_needed(backend: LocalBackend, base_6_1: Base) -> None:
    toolchains = backend.toolchains
    sandbox = toolchains.sandbox(toolchains.helper())
    for program in ("/usr/lib/kpatch/create-diff-object", "/usr/lib/kpatch/create-klp-module", "/usr/bin/bwrap"):
        assert (toolchains.helper().root / program.lstrip("/")).is_file()
    assert sandbox.run(["pahole", "--version"]).text.startswith("v1.")
    assert (toolchains.helper().root / "usr/share/kpatch/patch/kpatch-macros.h").is_file()


def test_a_toolchain_that_is_there_is_not_made_again(backend: LocalBackend, base_6_1: Base) -> None:
    events: list[Event] = []
    assert backend.toolchains.add("debian-12", events.append) == backend.toolchains.get("debian-12")
    assert events == []


def test_a_changed_file_is_noticed(backend: LocalBackend, base_6_1: Base, reachable_path: Path) -> None:
    """On a copy whose files are shared with the real one, except the one that is changed."""
    real = backend.toolchains.get("debian-12")
    copy = Toolchains(reachable_path, backend.archive)
    run(["cp", "-al", real.root.parent, reachable_path / "debian-12"]).check("Copying a toolchain")
    assert copy.verify("debian-12")
    compiler = reachable_path / "debian-12/root/usr/bin/x86_64-linux-gnu-gcc-12"
    content = bytearray(compiler.read_bytes())
    content[len(content) // 2] ^= 1
    mode = compiler.stat().st_mode
    compiler.unlink()
    compiler.write_bytes(content)
    compiler.chmod(mode)
    assert not copy.verify("debian-12")
    assert backend.toolchains.verify("debian-12")


def test_a_toolchain_whose_making_was_interrupted_is_not_there(backend: LocalBackend, reachable_path: Path) -> None:
    def stop(event: Event) -> None:
        if "installing" in event.message:
            raise Stop

    made = Toolchains(reachable_path, backend.archive)
    with pytest.raises(Stop):
        made.add("debian-12", stop)
    assert made.list() == []
    assert [path.name for path in reachable_path.iterdir()] == [".debian-12.lock"]


def test_what_a_killed_process_left_of_another_toolchain_is_left_alone(
    backend: LocalBackend, reachable_path: Path
) -> None:
    def stop(event: Event) -> None:
        raise Stop

    for name in (".debian-13.new-left", ".debian-13-rust.new-busy"):
        (reachable_path / name / "root").mkdir(parents=True)
    with pytest.raises(Stop):
        Toolchains(reachable_path, backend.archive).add("debian-13", stop)
    assert not (reachable_path / ".debian-13.new-left").exists()
    assert (reachable_path / ".debian-13-rust.new-busy").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gcc-11 (Debian 11.2.0-19) 11.2.0", ["(Debian 11.2.0-19) 11.2.0", "debian-12 has (Debian 12.2.0-14"]),
        ("gcc-12 (Debian 12.2.0-14) 12.2.0", ["(Debian 12.2.0-14) 12.2.0", "debian-12 has (Debian 12.2.0-14+deb12u1"]),
        ("Debian clang version 19.1.7", ["Debian clang version 19.1.7"]),
        ("", ["not supported"]),
    ],
)
def test_a_compiler_that_no_toolchain_has_is_told_with_those_there_are(
    backend: LocalBackend, base_6_1: Base, text: str, words: list[str]
) -> None:
    context = BaseContext(backend.toolchains, backend.bases, 2, prove_base)
    with pytest.raises(EnvironmentFault) as caught:
        context.toolchain(KernelConfig({"CC_VERSION_TEXT": text}))
    assert caught.value.problem.code == "toolchain-match"
    for word in words:
        assert word in caught.value.problem.message


def test_any_root_file_system_becomes_a_toolchain(backend: LocalBackend, base_6_1: Base, reachable_path: Path) -> None:
    """Debian 12's root as a stranger's archive, with a device, a pipe, a setuid program and links that lead outside."""
    given, packed = reachable_path / "given", reachable_path / "given.tar"
    run(["cp", "-al", backend.toolchains.of(base_6_1).root, given]).check("Copying a root")
    run(["cp", "-al", backend.toolchains.helper().root.parent, reachable_path / "debian-13"]).check(
        "Copying the helper"
    )
    os.mknod(given / "usr/disk", 0o666 | stat.S_IFBLK, os.makedev(8, 0))
    os.mkfifo(given / "usr/pipe")
    (given / "usr/outside").symlink_to("/etc/shadow")
    (given / "usr/root-shell").write_text("#!/bin/sh\n")
    (given / "usr/root-shell").chmod(0o4755)
    run(["tar", "-C", given, "-cf", packed, "."]).check("Packing a root")
    shutil.rmtree(given)
    made, looked = Toolchains(reachable_path, backend.archive).add_root("foreign", packed, None)
    assert (made.compiler, made.version) == ("gcc-12", base_6_1.compiler)
    assert "1 device nodes were dropped." in looked.notes
    assert any(note.endswith("files lost their setuid or setgid bit.") for note in looked.notes)
    modes = [path.lstat().st_mode for path in made.root.rglob("*")]
    assert not [mode for mode in modes if stat.S_ISBLK(mode) or stat.S_ISFIFO(mode) or mode & stat.S_ISUID]
    context = BaseContext(Toolchains(reachable_path, backend.archive), backend.bases, 2, prove_base)
    config = parse_config((base_6_1.tree / ".config").read_bytes())
    assert context.toolchain(config) == made
    assert sorted(path.name for path in reachable_path.iterdir()) == [
        ".debian-13.lock", ".foreign.lock", "debian-13", "foreign", "given.tar",
    ]  # fmt: skip


def test_the_description_says_what_was_made(backend: LocalBackend, base_6_1: Base) -> None:
    made = backend.toolchains.get("debian-12")
    kept = json.loads((made.root.parent / "toolchain.json").read_text())
    assert kept["digest"] == made.digest
    assert made.size_bytes > 100 << 20
    assert os.stat(made.root).st_uid == 0  # noqa: PTH116 - the root itself
    assert replace(made, seconds=1.0).version == "(Debian 12.2.0-14+deb12u1) 12.2.0"
    assert shutil.which("gcc-12", path=str(made.root / "usr/bin")) is not None
