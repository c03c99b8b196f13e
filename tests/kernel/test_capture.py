# SPDX-License-Identifier: GPL-2.0-or-later
"""A captured compiler is a toolchain: what a host packs of itself, a server adds and knows by the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from elivepatch.build.roots.description import Toolchain
from elivepatch.client.host.machine import Host
from elivepatch.client.push.compiler import Capture
from elivepatch.client.push.pieces import pieces
from elivepatch.model.compiler import parse_compiler
from elivepatch.model.errors import HostError
from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend

pytestmark = pytest.mark.kernel

NAME = "captured-by-a-test"


@pytest.fixture(scope="module")
def known(backend: LocalBackend) -> Toolchain:
    """Debian 12's toolchain, whose root stands for a host with that compiler."""
    return backend.toolchains.add("debian-12")


def host_of(known: Toolchain) -> Capture:
    def ask(command: Sequence[str]) -> str:
        done = run(["chroot", known.root, *command], timeout_s=60)
        return done.text if done.ok else ""

    return Capture(Host(known.root), ask)


def test_a_captured_compiler_becomes_a_toolchain_that_says_the_same(
    backend: LocalBackend, known: Toolchain, shared_path: Path
) -> None:
    capture = host_of(known)
    capture.take(capture.compiler(f"x86_64-pc-linux-gnu-{known.says}"))
    packed = shared_path / "compiler.tar.gz"
    with packed.open("wb") as file:
        file.writelines(pieces(capture.entries()))
    assert packed.stat().st_size < 120 << 20
    if (backend.toolchains.directory / NAME).exists():  # of a run that was killed
        backend.toolchains.remove(NAME, ())
    try:
        made, _ = backend.toolchains.add_root(NAME, packed, known.compiler)
        assert (made.says, made.comment) == (known.says, known.comment)
    finally:
        backend.toolchains.remove(NAME, ())


def test_a_host_without_that_compiler_names_those_that_it_has(known: Toolchain) -> None:
    with pytest.raises(HostError) as caught:
        host_of(known).compiler("gcc (Gentoo 13.3.1_p20240614 p17) 13.3.1 20240614")
    assert caught.value.problem.code == "compiler-missing"
    here = parse_compiler(known.says)
    assert here is not None
    assert caught.value.problem.advice.count(here.version) == 1


def test_a_host_that_lacks_a_program_of_the_build_says_which(known: Toolchain, tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    capture = replace(host_of(known), host=Host(tmp_path))
    with pytest.raises(HostError, match="flex, bison"):
        capture.take("/usr/bin/gcc")
