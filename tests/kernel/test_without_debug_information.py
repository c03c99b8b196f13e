# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels without debug information: kbuild's own files name the sources, and the kernel's symbols prove them.

The kernel is built in a directory of its own (make O=), and its modules are stripped and compressed when they are
installed, as on a host that has never heard of livepatches.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from edits import after, patch_of, series_of
from pushing_host import base_of_pushed, describe_kernel, put

from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.kbuild import make_arguments
from elivepatch.build.base.kernel_source import fetch_source
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.base.tree import unpack_source
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.kept.files import left_by_build
from elivepatch.build.sample.fidelity import prove_base
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, writable_directory
from elivepatch.client.push.kernel_files import PushOptions, find_kernel_files
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.build import BuildOutcome
from elivepatch.model.errors import ElivepatchError
from elivepatch.model.kernel import Release, parse_release
from elivepatch.model.trial import Expectation
from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial
from kinds import LOAD, LOOP
from small_kernels import FRAGMENT, TOOLCHAIN, small_kernel

pytestmark = [pytest.mark.kernel, pytest.mark.extended, pytest.mark.whole_kernel]

SUFFIX = "-bare"
BUILD = """
"$@" vmlinux bzImage modules
"$@" INSTALL_MOD_PATH=/out INSTALL_MOD_STRIP=1 modules_install
"""


class Built(NamedTuple):
    """A kernel as its build left it: release, source, directory of the build, installed modules."""

    release: Release
    source: Path
    directory: Path
    modules: Path

    def described(self) -> CustomKernel:
        """Return what `kernel add --build` makes of it."""
        kept = left_by_build(self.directory, modules=self.modules)
        return CustomKernel(release=self.release, source=str(self.source), config=self.directory / ".config", kept=kept)


@pytest.fixture(scope="module")
def built(backend: LocalBackend, shared_path: Path) -> Built:
    package = backend.archive.versions("linux-source-6.12")[0]
    toolchain = backend.toolchains.add(TOOLCHAIN)
    sandbox = backend.toolchains.sandbox(toolchain)
    (shared_path / "fetched").mkdir()
    source = shared_path / "linux"
    fetched = fetch_source(
        f"{package.name}={package.version}", backend.archive, shared_path / "fetched", lambda _: None
    )
    unpack_source(fetched.archive, source, sandbox)
    directory = writable_directory(source / "build")
    options = FRAGMENT.read_text().replace("CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y", "CONFIG_DEBUG_INFO_NONE=y")
    wanted = directory / "wanted"
    wanted.write_text(f'{options}CONFIG_LOCALVERSION="{SUFFIX}"\n')
    os.chown(wanted, BUILD_UID, BUILD_UID)
    make = [*make_arguments(toolchain.compiler, 2), "O=build"]
    configure = [*make, "KCONFIG_ALLCONFIG=build/wanted", "allnoconfig"]
    sandbox.run(configure, writable=source).check("Configuring a kernel")
    assert "CONFIG_DEBUG_INFO=y" not in (directory / ".config").read_text()
    installed = writable_directory(shared_path / "installed")
    done = sandbox.run(["sh", "-ec", BUILD, "sh", *make], writable=source, output=installed, timeout_s=3600)
    done.check("Building a kernel")
    release = parse_release(f"{re.split(r'[-~]', package.version)[0]}{SUFFIX}")
    modules = installed / "lib/modules" / release
    (loop,) = modules.rglob("loop.ko")
    run(["xz", loop]).check("Compressing a module")
    return Built(release, source, directory, modules)


def maker(backend: LocalBackend, bases: Bases) -> CustomMaker:
    return CustomMaker(backend.archive, BaseContext(backend.toolchains, bases, 2, prove_base))


@pytest.fixture(scope="module")
def bare(backend: LocalBackend, built: Built, shared_path: Path) -> Base:
    bases = Bases(shared_path / "bases")
    bases.directory.mkdir()
    return maker(backend, bases).add(built.described())


def outcome_of(backend: LocalBackend, base: Base, place: Path, patch: str) -> BuildOutcome:
    place.mkdir()
    builder = ObjectsBuilder(base=base, toolchains=backend.toolchains, jobs=2)
    return builder.build(series_of(patch), name="livepatch_bare", work_dir=place)


def test_its_base_has_the_units_and_sizes_of_the_same_kernel_with_debug_information(
    backend: LocalBackend, bare: Base, built: Built
) -> None:
    """The other kernel was built by the server from the same source and options, with debug information."""
    other = small_kernel(backend, "6.12", Path(__file__).with_name("data") / "cmdline-base.patch", suffix="-own")
    assert not ElfFile(built.directory / "vmlinux").has_debug_info
    assert bare.build_id == ElfFile(built.directory / "vmlinux").build_id
    assert bare.struct_sizes == other.struct_sizes
    # Files that are made when the kernel is linked have names that begin with a dot.
    with_information = {name: unit for name, unit in other.units.by_source.items() if not name.startswith(".")}
    assert {name: one for name, one in bare.units.by_source.items() if name.endswith(".c")} == {
        name: one for name, one in with_information.items() if name.endswith(".c")
    }
    assert bare.units.by_source.keys() >= with_information.keys()
    assert bare.units.includers == other.units.includers
    assert bare.fidelity["identical"] == bare.fidelity["functions"] >= 200


def test_a_livepatch_of_vmlinux_and_of_a_module_works(
    backend: LocalBackend, bare: Base, reachable_path: Path, tmp_path: Path, settings: ServerSettings
) -> None:
    outcome = outcome_of(backend, bare, reachable_path / "built", patch_of(bare.tree, LOAD, LOOP))
    assert outcome.problem is None, outcome.problem
    assert outcome.module is not None
    assert {one.object for one in outcome.functions} == {"vmlinux", "loop"}
    report = run_trial(
        kernel=guest_kernel(bare),
        livepatch=outcome.module,
        livepatch_name="livepatch_bare",
        parents=["loop"],
        expectations=[
            Expectation.parse("/proc/loadavg =~ ^load "),
            Expectation.parse(
                "losetup /dev/loop0 /bin/busybox; cat /sys/block/loop0/loop/offset; losetup -d /dev/loop0 =~ at 0"
            ),
        ],
        work_dir=tmp_path / "work",
        cache_dir=settings.cache_dir,
    )
    assert report.problems == (), report.problems


def test_a_changed_layout_is_refused_although_the_kernel_has_no_types(
    backend: LocalBackend, bare: Base, reachable_path: Path
) -> None:
    change = after("fs/minix/minix.h", "struct minix_inode_info {\n", "	int first;\n")
    outcome = outcome_of(backend, bare, reachable_path / "built", patch_of(bare.tree, change))
    assert outcome.problem is not None
    assert outcome.problem.code == "data-layout"


def test_a_host_that_pushes_it_gets_the_same_base(
    backend: LocalBackend, bare: Base, built: Built, reachable_path: Path
) -> None:
    root = reachable_path / "host"
    host = describe_kernel(root, built.release, bare.build_id)
    put(root, f"boot/config-{built.release}", (built.directory / ".config").read_bytes())
    (root / "lib/modules").mkdir(parents=True)
    shutil.copytree(built.modules, root / "lib/modules" / built.release, symlinks=True)
    for name in ("build", "source"):
        (root / "lib/modules" / built.release / name).unlink(missing_ok=True)
    files = find_kernel_files(host, PushOptions(build=built.directory, source=built.source))
    bases = reachable_path / "bases"
    bases.mkdir()
    made = base_of_pushed(files, maker(backend, Bases(bases)), reachable_path)
    assert (made.build_id, made.struct_sizes) == (bare.build_id, bare.struct_sizes)
    assert made.units == bare.units


@pytest.fixture
def other(built: Built, reachable_path: Path) -> Iterator[Built]:
    """A copy of the directory of the build, to change."""
    directory = reachable_path / "other"
    shutil.copytree(built.directory, directory, symlinks=True)
    yield built._replace(directory=directory)
    shutil.rmtree(directory)


def refusal(backend: LocalBackend, kernel: CustomKernel, bases: Bases) -> str:
    with pytest.raises(ElivepatchError) as caught:
        maker(backend, bases).add(kernel)
    assert bases.list() == [], "nothing half-made is left"
    return caught.value.problem.code


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("the directory is not given", "debug-info"),
        ("it was cleaned", "kbuild-files"),
        ("a source is linked no more", "kbuild-files"),
        ("vmlinux is stripped", "debug-info"),
    ],
)
def test_a_directory_that_does_not_show_each_source_makes_no_base(
    backend: LocalBackend, other: Built, reachable_path: Path, what: str, code: str
) -> None:
    kernel = other.described()
    assert kernel.kept is not None
    match what:
        case "the directory is not given":
            kernel = replace(kernel, kept=replace(kernel.kept, build=None))
        case "it was cleaned":
            (other.directory / "vmlinux.a").unlink()
        case "a source is linked no more":
            command = ["ar", "dP", "vmlinux.a", "fs/proc/loadavg.o"]
            run(command, cwd=other.directory).check("Building again")
        case _:
            run(["strip", other.directory / "vmlinux"]).check("Stripping")
    assert refusal(backend, kernel, Bases(reachable_path / "bases")) == code
