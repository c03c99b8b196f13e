# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of one kernel come out of its packages, all of one build, or the refusal names what is missing or wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from kernel_packages import (
    CODE,
    CONFIG,
    MODULES,
    debug_files,
    elf,
    headers_files,
    image,
    image_files,
    make_deb,
    make_pacman,
    make_rpm,
)
from pushing_host import BUILD_ID, RELEASE

from elivepatch.build.packages.kernel import KernelFiles, KernelTaker
from elivepatch.build.packages.reader import PackageReader
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import Problem, UsageError
from elivepatch.model.kernel import Release

OTHER = "a5" * 20


def taken(reader: PackageReader, place: Path, release: str = RELEASE) -> KernelFiles | None:
    place.mkdir(exist_ok=True)
    return KernelTaker(reader, reader.listing(), Release(release), place / "kernel").take()


def refusal(reader: PackageReader, into: Path) -> Problem:
    with pytest.raises(UsageError) as caught:
        taken(reader, into)
    return caught.value.problem


def debian(store: Path, **changed: dict[str, bytes]) -> None:
    """Make the packages of `make bindeb-pkg`: stripped modules, their debug files under their own names apart."""
    for name, files in {"image": image_files(), "headers": headers_files(), "image-dbg": debug_files()}.items():
        make_deb(store, f"linux-{name}-{RELEASE}", changed.get(name.replace("-", "_"), files))


def kernel_of(files: KernelFiles | None) -> KernelFiles:
    assert files is not None
    return files


def test_debs_give_the_files_of_a_kernel(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    debian(store)
    files = kernel_of(taken(reader, tmp_path))
    assert files.kept.modules is not None
    assert files.kept.debug is not None
    assert ElfFile(files.kept.vmlinux).build_id == BUILD_ID
    assert files.kept.vmlinuz.read_bytes() == image()
    assert files.config.read_bytes() == CONFIG
    assert files.kept.symvers.read_bytes().startswith(b"0x1\tprintk")
    assert {path.name for path in files.kept.modules.rglob("*.ko")} == {"fat.ko", "stp.ko"}
    assert {path.name for path in files.kept.debug.rglob("*.ko")} == {"fat.ko", "stp.ko"}
    assert len(files.packages) == 3
    assert not list(tmp_path.rglob("README")), "what no base needs is not kept"


def test_rpms_of_a_distribution_give_them(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    """Fedora's way: compressed modules, debug files of modules, exports compressed, vmlinux whole."""
    top = f"lib/modules/{RELEASE}"
    core = {name: content for name, content in image_files().items() if not name.startswith("boot/")}
    core |= {
        f"{top}/vmlinuz": image(),
        f"{top}/config": b"CONFIG_X86_64=y\n",
        f"{top}/symvers.gz": gzip.compress(b"0x2"),
    }
    modules = {name: core.pop(name) for name in list(core) if name.endswith(".ko")}
    packed = {f"{name}.gz": gzip.compress(content) for name, content in modules.items()}
    debug = {f"usr/lib/debug/{name}.debug": elf(code=False, build_id="ab" * 20) for name in modules}
    make_rpm(store, "kernel-core", core, ghosts=[f"boot/vmlinuz-{RELEASE}"])
    make_rpm(store, "kernel-modules", packed)
    make_rpm(store, "kernel-debuginfo", debug | {f"usr/lib/debug/{top}/vmlinux": elf()})
    files = kernel_of(taken(reader, tmp_path))
    assert files.kept.symvers.read_bytes() == b"0x2"
    assert files.kept.modules is not None
    assert files.kept.debug is not None
    assert {path.name for path in files.kept.modules.rglob("*.ko*")} == {"fat.ko.gz", "stp.ko.gz"}
    assert {path.name for path in files.kept.debug.rglob("*.debug")} == {"fat.ko.debug", "stp.ko.debug"}
    assert all(not package.is_source for package in files.packages)


def test_a_stripped_vmlinux_comes_with_its_debug_file(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    """openSUSE's way."""
    stripped = {f"boot/vmlinux-{RELEASE}.gz": gzip.compress(elf(debug=False))}
    debug = {name: content for name, content in debug_files().items() if not name.endswith("vmlinux")}
    debug[f"usr/lib/debug/boot/vmlinux-{RELEASE}.debug"] = elf(code=False)
    debian(store, image=image_files() | stripped, image_dbg=debug)
    files = kernel_of(taken(reader, tmp_path))
    assert ElfFile(files.kept.vmlinux).named(".text") == CODE
    assert files.kept.debug is not None
    assert ElfFile(files.kept.debug / "vmlinux.debug").named(".debug_info") == b"information"


def test_beside_a_debug_file_alone_the_image_has_the_code(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    debug = debug_files() | {f"usr/lib/debug/lib/modules/{RELEASE}/vmlinux": elf(code=False)}
    debian(store, image_dbg=debug)
    files = kernel_of(taken(reader, tmp_path))
    assert files.kept.vmlinux.read_bytes() == elf(debug=False)
    assert files.kept.debug is not None
    assert (files.kept.debug / "vmlinux.debug").read_bytes() == elf(code=False)


@pytest.mark.parametrize("way", ["gzip", "xz", "zstd", "lz4", "bzip2", "lzma"])
def test_the_image_is_compared_with_vmlinux_however_it_is_compressed(
    store: Path, reader: PackageReader, tmp_path: Path, way: str
) -> None:
    debian(store, image=image_files() | {f"boot/vmlinuz-{RELEASE}": image(way=way)})
    assert ElfFile(kernel_of(taken(reader, tmp_path / "a")).kept.vmlinux).build_id == BUILD_ID
    for package in store.iterdir():
        package.unlink()
    debian(store, image=image_files() | {f"boot/vmlinuz-{RELEASE}": image(OTHER, way=way)})
    assert refusal(reader, tmp_path / "b").code == "packages-several"


def test_a_vmlinux_beside_the_packages_counts_as_one_of_them(
    store: Path, reader: PackageReader, tmp_path: Path
) -> None:
    """`make binrpm-pkg` packs none before 6.15."""
    make_rpm(store, "kernel", image_files())
    make_rpm(store, "kernel-devel", headers_files())
    (store / "vmlinux").write_bytes(elf(build_id=OTHER))
    assert refusal(reader, tmp_path / "a").code == "packages-incomplete", "of which kernel it is, its name must say"
    (store / f"vmlinux-{RELEASE}").write_bytes(elf())
    files = kernel_of(taken(reader, tmp_path / "b"))
    assert ElfFile(files.kept.vmlinux).build_id == BUILD_ID
    assert f"vmlinux-{RELEASE}" in files.origins


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (f"boot/vmlinuz-{RELEASE}", "vmlinuz"),
        (f"boot/config-{RELEASE}", "its configuration"),
        (f"lib/modules/{RELEASE}/modules.order", "modules.order"),
        (f"lib/modules/{RELEASE}/kernel/net/802/stp.ko", "1 of the 2 modules of its list, stp"),
        (f"usr/src/linux-headers-{RELEASE}/Module.symvers", "Module.symvers"),
        (f"usr/lib/debug/lib/modules/{RELEASE}/vmlinux", "vmlinux with debug information"),
    ],
)
def test_a_file_that_no_package_has_is_named(
    store: Path, reader: PackageReader, tmp_path: Path, lacking: str, said: str
) -> None:
    groups = {"image": image_files(), "headers": headers_files(), "image_dbg": debug_files()}
    left = {
        name: {path: content for path, content in files.items() if path != lacking} for name, files in groups.items()
    }
    debian(store, **left)
    problem = refusal(reader, tmp_path)
    assert problem.code == "packages-incomplete"
    assert f"no package has {said}" in problem.message


def test_a_vmlinux_without_debug_information_is_none(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    """Arch's way."""
    top = f"usr/lib/modules/{RELEASE}"
    files = {f"usr/{name}" if name.startswith("lib/") else name: content for name, content in image_files().items()}
    make_pacman(store, "linux", files)
    build = {"Module.symvers": b"0x1", ".config": b"CONFIG_X86_64=y\n", "vmlinux": elf(debug=False)}
    make_pacman(store, "linux-headers", {f"{top}/build/{name}": content for name, content in build.items()})
    assert "vmlinux with debug information" in refusal(reader, tmp_path).message


def test_a_refusal_names_packages_that_could_not_be_read(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    make_deb(store, "linux-image", image_files())
    (store / "linux-headers.deb").write_bytes(b"half")
    assert "These could not be read: linux-headers.deb." in refusal(reader, tmp_path).message


def test_two_builds_of_one_release_are_refused_by_the_names_of_their_packages(
    store: Path, reader: PackageReader, tmp_path: Path
) -> None:
    debian(store)
    make_deb(store, f"linux-image-{RELEASE}", image_files(build_id=OTHER), version="6.12.40-2")
    problem = refusal(reader, tmp_path)
    assert problem.code == "packages-several"
    assert f"linux-image-{RELEASE}_6.12.40-1_amd64.deb and linux-image-{RELEASE}_6.12.40-2" in problem.message


def test_one_package_that_is_there_twice_does_no_harm(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    debian(store)
    (store / "again").mkdir()
    make_deb(store / "again", f"linux-headers-{RELEASE}", headers_files())
    assert taken(reader, tmp_path) is not None


def test_an_image_of_another_build_than_vmlinux_is_refused(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    debian(store, image_dbg=debug_files(build_id=OTHER))
    problem = refusal(reader, tmp_path)
    assert problem.code == "packages-several"
    assert BUILD_ID in problem.message
    assert OTHER in problem.message


def test_an_image_that_cannot_be_compared_with_vmlinux_is_refused(
    store: Path, reader: PackageReader, tmp_path: Path
) -> None:
    debian(store, image=image_files() | {f"boot/vmlinuz-{RELEASE}": b"MZ of another kind" * 100})
    assert refusal(reader, tmp_path).code == "packages-image"


def test_modules_that_are_not_of_the_kernels_build_are_left_out(
    store: Path, reader: PackageReader, tmp_path: Path
) -> None:
    debian(store)
    make_deb(store, "some-driver", {f"lib/modules/{RELEASE}/updates/driver.ko": elf()})
    files = kernel_of(taken(reader, tmp_path))
    assert files.kept.modules is not None
    assert {path.stem for path in files.kept.modules.rglob("*.ko")} == {Path(name).name for name in MODULES}


def test_packages_of_another_kernel_are_not_this_kernels(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    debian(store)
    assert taken(reader, tmp_path, "6.12.40-ours2") is None
    assert not (tmp_path / "kernel").exists()


def test_a_package_that_is_cut_off_leaves_nothing(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    debian(store)
    package = next(store.glob("linux-image-dbg-*"))
    package.write_bytes(package.read_bytes()[:-200])
    problem = refusal(reader, tmp_path)
    assert (problem.code, package.name in problem.message) == ("packages-damaged", True)
    assert not (tmp_path / "kernel/raw").exists()
