# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of kernels, read in the real sandbox, become bases that livepatches are built on and tried."""

from __future__ import annotations

import shutil
import stat
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from edits import Edit, patch_of
from kernel_packages import debug_files, headers_files, image_files, make_deb, make_pacman, make_rpm
from packed_kernel import PackedKernel, packed_kernel
from pushing_host import BUILD_ID, RELEASE
from real_server import Server

from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.custom import CustomMaker
from elivepatch.build.base.stock import find_packages
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.packages.kernel import KernelTaker
from elivepatch.build.packages.reader import PackageReader
from elivepatch.build.packages.source import find_source
from elivepatch.build.packages.tools import make_tools
from elivepatch.build.providers.packages import PackagesProvider
from elivepatch.build.sample.fidelity import prove_base
from elivepatch.build.sandbox.bubblewrap import BUILD_UID
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.build import BuildOutcome
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings

pytestmark = pytest.mark.kernel

IMAGE = f"boot/vmlinuz-{RELEASE}"
MEMINFO = Edit("fs/proc/meminfo.c", '"VmallocChunk:   "', '"VMALLOCCHUNK:   "')
VLAN = Edit("net/8021q/vlanproc.c", '"VLAN Dev name	 | VLAN ID\\n"', '"VLAN device	 | VLAN id\\n"')
LOOP = Edit(
    "drivers/block/loop.c",
    '"%llu\\n", (unsigned long long)lo->lo_offset',
    '"at %llu\\n", (unsigned long long)lo->lo_offset',
)
SHOWN = {
    MEMINFO: "/proc/meminfo =~ VMALLOCCHUNK",
    LOOP: "losetup /dev/loop0 /bin/busybox; cat /sys/block/loop0/loop/offset; losetup -d /dev/loop0 =~ at 0",
}


@pytest.fixture
def reader(backend: LocalBackend, reachable_path: Path) -> PackageReader:
    store, tools = reachable_path / "store", reachable_path / "tools"
    store.mkdir()
    make_tools(tools)
    return PackageReader(directory=store, helper=backend.base_context().helper_sandbox(), tools=tools)


def fill(store: Path, kind: str) -> None:
    groups: dict[str, Mapping[str, bytes]] = {
        "linux-image": image_files(), "linux-headers": headers_files(), "linux-dbg": debug_files()
    }  # fmt: skip
    for name, files in groups.items():
        match kind:
            case "deb":
                make_deb(store, name, files)
            case "deb of Ubuntu":
                make_deb(store, name, files, way="zstd", listed=False)
            case "rpm":
                make_rpm(store, name, files, ghosts=[f"boot/System.map-{RELEASE}"])
            case _:
                make_pacman(store, name, files)


@pytest.mark.parametrize("kind", ["deb", "deb of Ubuntu", "rpm", "pacman"])
def test_the_files_of_a_kernel_come_out_of_each_kind_of_package_in_the_sandbox(
    reader: PackageReader, reachable_path: Path, kind: str
) -> None:
    fill(reader.directory, kind)
    files = KernelTaker(reader, reader.listing(), Release(RELEASE), reachable_path / "kernel").take()
    assert files is not None
    assert ElfFile(files.kept.vmlinux).build_id == BUILD_ID
    assert len(files.packages) == 3


def test_a_source_rpm_is_prepared_in_the_sandbox(reader: PackageReader, reachable_path: Path) -> None:
    """Its %prep is a program of a stranger's: it sees no file of this machine and reaches no network."""
    tree = reachable_path / "linux"
    (tree / "kernel").mkdir(parents=True)
    (tree / "kernel/fork.c").write_text("int fork;\n")
    with tarfile.open(reachable_path / "linux.tar.gz", "w:gz") as packed:
        packed.add(tree, "linux")
    secret = reachable_path / "secret"
    secret.write_text("a secret")
    prepare = f"%setup -q -n linux\nif [ -e {secret} ]; then cp {secret} stolen; fi\nid -u >user\n"
    sources = {"linux.tar.gz": (reachable_path / "linux.tar.gz").read_bytes()}
    make_rpm(reader.directory, "kernel", image_files(), sources=sources, prepare=prepare)
    listing = reader.listing()
    kernels = [package for package in listing.packages if not package.is_source]
    source = find_source(reader, listing, kernels, reachable_path / "source")
    assert source is not None
    with tarfile.open(source.named) as made:
        names = {member.name for member in made.getmembers() if member.isfile()}
        user = made.extractfile("linux/user")
        assert user is not None
        assert user.read().strip() != b"0"
    assert names == {"linux/kernel/fork.c", "linux/user"}


def test_devices_links_and_special_bits_of_an_rpm_do_no_harm(reader: PackageReader, reachable_path: Path) -> None:
    special = f"%dev(c,1,3) %attr(0666,root,root) /boot/config-{RELEASE}\n%attr(4755,root,root) /{IMAGE}"
    path, source = make_rpm(reader.directory, "kernel", {}, special=special, made={IMAGE: b"MZ"})
    source.unlink()
    (package,) = reader.listing().packages
    assert [name.lstrip("/") for name in package.names] == [IMAGE], "a device is no file of a kernel"
    reader.unpack(path.name, [IMAGE], reachable_path / "image")
    unpacked = (reachable_path / "image" / IMAGE).stat()
    assert unpacked.st_uid == BUILD_UID
    assert not unpacked.st_mode & stat.S_ISUID
    with pytest.raises(UsageError) as caught:
        reader.unpack(path.name, [f"boot/config-{RELEASE}"], reachable_path / "device")
    assert caught.value.problem.code == "packages-damaged"
    assert not [one for one in reachable_path.rglob("*") if stat.S_ISCHR(one.lstat().st_mode)]


@pytest.mark.extended
@pytest.mark.whole_kernel
def test_debians_own_packages_give_the_livepatches_that_its_archive_gives(
    backend: LocalBackend, base_6_1: Base, reachable_path: Path, build: Callable[..., BuildOutcome]
) -> None:
    """The image is compressed by lz4, the source is that of the same version, nothing else is given."""
    store, bases, work = (reachable_path / name for name in ("store", "bases", "work"))
    for directory in (store, bases, work):
        directory.mkdir()
    packages = find_packages(base_6_1.release, backend.archive).all()
    for package, path in zip(packages, backend.archive.download(packages), strict=True):
        shutil.copyfile(path, store / f"{package.name}.deb")
    context = BaseContext(backend.toolchains, Bases(bases), 2, prove_base)
    provider = PackagesProvider(CustomMaker(backend.archive, context), (), store, work)
    made = provider.provide(KernelRequest(release=base_6_1.release, build_id=base_6_1.build_id))
    assert isinstance(made, Base)
    assert made.build_id == base_6_1.build_id
    assert made.units == base_6_1.units
    assert made.struct_sizes == base_6_1.struct_sizes
    assert made.module_files.keys() == base_6_1.module_files.keys()
    assert made.packages.keys() >= {f"{package.name}.deb" for package in packages}
    for edit in (MEMINFO, VLAN):
        modules = [build(base, patch_of(base_6_1.tree, edit)).module for base in (made, base_6_1)]
        ours, theirs = (module.read_bytes() if module is not None else b"" for module in modules)
        assert ours, edit.path
        assert ours == theirs, edit.path


@pytest.fixture(scope="module")
def packed(backend: LocalBackend, settings: ServerSettings) -> PackedKernel:
    return packed_kernel(backend, settings.cache_dir)


@pytest.mark.extended
@pytest.mark.whole_kernel
@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_packages_that_the_kernels_own_makefile_made_become_livepatches_on_request(
    backend: LocalBackend, settings: ServerSettings, packed: PackedKernel, tmp_path: Path, kind: str
) -> None:
    """The first build asks for the kernel; no base was added before."""
    assert backend.bases.find(packed.release) is None
    (tmp_path / "sources.toml").write_text(f'[[source]]\nreleases = "*-packed"\nsource = "{packed.source}"\n')
    configured = tmp_path / "server.toml"
    configured.write_text(f'sources = "{tmp_path}/sources.toml"\npackages = "{packed.directory}/{kind}"\n')
    server = Server(tmp_path / "state", settings.cache_dir, arguments=("--config", str(configured)))
    server.start()
    try:
        for edit, shown in SHOWN.items():
            patch = tmp_path / "fix.patch"
            patch.write_text(patch_of(packed.directory / "source", edit))
            status, report, printed = server.run(
                "build", patch, "--kernel", packed.release, "-o", tmp_path / "out.ko", "--expect", shown,
                timeout_s=3000,
            )  # fmt: skip
            assert status == 0, printed
            assert report["trial"]["outcome"] == "passed"
        base = backend.base(packed.release)
        assert any(name.endswith(f".{kind}") for name in base.packages), base.packages
        assert base.fidelity["identical"] == base.fidelity["functions"] >= 100
        assert "loop" in base.module_files
    finally:
        server.end()
        if backend.bases.find(packed.release) is not None:
            backend.bases.remove(packed.release)
