# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a kernel's build: found where distributions keep them, or named by the user, and of the running kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from built_tree import built_tree
from compiled import needs_gcc
from pushing_host import BUILD_ID, RELEASE, describe_kernel, pushing_host, put, vmlinux_of

from elivepatch.client.host.machine import Host
from elivepatch.client.push.kernel_files import PushOptions, find_kernel_files
from elivepatch.kernel.kbuild.record import RECORD, parse_record, read_build
from elivepatch.model.errors import EnvironmentFault, HostError, UsageError


def test_the_files_of_a_build_in_its_tree_are_found(tmp_path: Path) -> None:
    found = find_kernel_files(pushing_host(tmp_path), PushOptions())
    tree = tmp_path / "usr/src/linux"
    assert found.release == RELEASE
    assert found.named["vmlinux"] == tree / "vmlinux"
    assert found.named["vmlinuz"] == tmp_path / f"boot/vmlinuz-{RELEASE}"
    assert found.named["config"] == tmp_path / f"boot/config-{RELEASE}"
    assert found.source == tree


def test_a_module_of_the_build_comes_with_its_debug_information_and_any_other_as_it_is_installed(
    tmp_path: Path,
) -> None:
    found = find_kernel_files(pushing_host(tmp_path), PushOptions())
    installed = tmp_path / f"lib/modules/{RELEASE}"
    assert found.modules == {
        "modules/modules.order": installed / "modules.order",
        "modules/kernel/fs/fat/fat.ko": tmp_path / "usr/src/linux/fs/fat/fat.ko",
        "modules/updates/own.ko": installed / "updates/own.ko",
    }


@pytest.mark.parametrize("top", ["usr/lib/debug/lib/modules", "usr/lib/debug/usr/lib/modules"])
def test_debug_files_that_a_distribution_ships_apart_are_sent_too(tmp_path: Path, top: str) -> None:
    host = pushing_host(tmp_path)
    for name in ("kernel/fs/fat/fat.ko.debug", "kernel/fs/ext4/ext4.ko", "vmlinux", "vdso/vdso64.so.debug"):
        put(tmp_path, f"{top}/{RELEASE}/{name}", b"debug information")
    found = find_kernel_files(host, PushOptions())
    sent = {name: path for name, path in found.modules.items() if name.startswith("debug/")}
    assert sent == {
        "debug/kernel/fs/fat/fat.ko.debug": tmp_path / f"{top}/{RELEASE}/kernel/fs/fat/fat.ko.debug",
        "debug/kernel/fs/ext4/ext4.ko": tmp_path / f"{top}/{RELEASE}/kernel/fs/ext4/ext4.ko",
    }


def test_the_source_is_sent_without_what_was_built_and_without_history(tmp_path: Path) -> None:
    found = find_kernel_files(pushing_host(tmp_path), PushOptions())
    put(tmp_path, "usr/src/linux/arch/x86/kernel/vmlinux.lds.S", b"linker script")
    names = [entry.name for entry in found.source_entries()]
    assert names == [
        "linux/Kconfig", "linux/Makefile", "linux/arch/x86/kernel/vmlinux.lds.S", "linux/fs/fat/fat.c",
        "linux/kernel/fork.c",
    ]  # fmt: skip
    without = find_kernel_files(pushing_host(tmp_path / "other"), PushOptions(without_source=True))
    assert list(without.source_entries()) == []


def test_a_file_that_a_link_leads_to_is_sent_and_not_the_link(tmp_path: Path) -> None:
    host = pushing_host(tmp_path)
    image = tmp_path / f"boot/vmlinuz-{RELEASE}"
    image.rename(tmp_path / "boot/bzImage")
    image.symlink_to("bzImage")
    (tmp_path / f"lib/modules/{RELEASE}/updates/linked.ko").symlink_to("own.ko")
    sent = {entry.name: entry.content for entry in find_kernel_files(host, PushOptions()).entries()}
    assert sent["vmlinuz"] == tmp_path / "boot/bzImage"
    assert sent["modules/updates/linked.ko"] == tmp_path / f"lib/modules/{RELEASE}/updates/own.ko"


def test_a_link_to_a_directory_in_the_source_is_sent_as_a_link(tmp_path: Path) -> None:
    host = pushing_host(tmp_path)
    (tmp_path / "usr/src/linux/dts").symlink_to("fs")
    names = [entry.name for entry in find_kernel_files(host, PushOptions()).source_entries()]
    assert names.count("linux/dts") == 1


def test_a_vmlinux_of_another_kernel_is_refused_with_both_build_ids(tmp_path: Path) -> None:
    host = pushing_host(tmp_path)
    put(tmp_path, "usr/src/linux/vmlinux", vmlinux_of("77" * 20))
    with pytest.raises(UsageError, match=f"{'77' * 20}, this host runs {'5f' * 20}"):
        find_kernel_files(host, PushOptions())
    put(tmp_path, "other", vmlinux_of("5f" * 20))
    assert find_kernel_files(host, PushOptions(vmlinux=tmp_path / "other")).named["vmlinux"] == tmp_path / "other"


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    host = pushing_host(tmp_path)
    put(tmp_path, "usr/src/linux/vmlinux", b"text")
    with pytest.raises(UsageError, match="cannot be read as a kernel"):
        find_kernel_files(host, PushOptions())


@pytest.mark.parametrize("name", ["usr/src/linux/vmlinux", f"boot/vmlinuz-{RELEASE}", "usr/src/linux/Module.symvers",
                                  f"boot/config-{RELEASE}"])  # fmt: skip
def test_each_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    host = pushing_host(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(HostError) as caught:
        find_kernel_files(host, PushOptions())
    assert caught.value.problem.code == "kernel-files"


def test_a_host_without_any_file_says_where_it_looked(tmp_path: Path) -> None:
    host = describe_kernel(tmp_path, RELEASE, "5f" * 20)
    with pytest.raises(HostError, match=f"/usr/lib/debug/boot/vmlinux-{RELEASE}") as caught:
        find_kernel_files(host, PushOptions())
    assert "--vmlinux" in caught.value.problem.advice


def test_a_named_source_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not hold the source of a kernel"):
        find_kernel_files(pushing_host(tmp_path), PushOptions(source=tmp_path / "boot"))


def test_base_patches_keep_their_order(tmp_path: Path) -> None:
    put(tmp_path, "b.patch", b"first")
    put(tmp_path, "a.patch", b"second")
    patches = (tmp_path / "b.patch", tmp_path / "a.patch")
    found = find_kernel_files(pushing_host(tmp_path), PushOptions(without_source=True, base_patches=patches))
    names = [entry.name for entry in found.entries() if entry.name.startswith("patches/")]
    assert names == ["patches/0001-b.patch", "patches/0002-a.patch"]


def without_debug_information(root: Path) -> Path:
    """Return the tree of a host whose kernel has no debug information; kbuild's files are in it."""
    pushing_host(root)
    tree = built_tree(root / "usr/src/linux")
    put(tree, "vmlinux", vmlinux_of(BUILD_ID, debug=False))
    return tree


@needs_gcc
def test_a_kernel_without_debug_information_is_sent_with_the_record_of_its_build(tmp_path: Path) -> None:
    tree = without_debug_information(tmp_path)
    sent = {entry.name: entry.content for entry in find_kernel_files(Host(tmp_path), PushOptions()).entries()}
    record = sent[RECORD]
    assert isinstance(record, bytes)
    assert parse_record(record) == read_build(tree)


def test_a_kernel_with_debug_information_needs_no_record(tmp_path: Path) -> None:
    assert RECORD not in {entry.name for entry in find_kernel_files(pushing_host(tmp_path), PushOptions()).entries()}


def test_a_kernel_without_debug_information_is_refused_before_anything_is_sent_if_its_build_is_not_here(
    tmp_path: Path,
) -> None:
    host = pushing_host(tmp_path)
    put(tmp_path, "usr/src/linux/vmlinux", vmlinux_of(BUILD_ID, debug=False))
    with pytest.raises(HostError, match="no debug information") as caught:
        find_kernel_files(host, PushOptions())
    assert "--build" in caught.value.problem.advice
    assert "CONFIG_DEBUG_INFO" in caught.value.problem.advice


@needs_gcc
def test_a_build_that_was_cleaned_in_part_is_refused(tmp_path: Path) -> None:
    tree = without_debug_information(tmp_path)
    (tree / "init/main.o").unlink()
    with pytest.raises(EnvironmentFault, match=r"lacks the object init/main\.o"):
        find_kernel_files(Host(tmp_path), PushOptions())
