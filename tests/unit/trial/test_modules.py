# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that are loaded before a livepatch, and their order."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.trial.case import GuestKernel, module_name
from elivepatch.trial.modules import content, module_tree


def module(*strings: str) -> bytes:
    """The smallest ELF file that has a .modinfo of these strings."""
    modinfo = b"".join(text.encode() + b"\0" for text in strings)
    names = b"\0.modinfo\0.shstrtab\0"
    where = 64 + len(modinfo) + len(names)

    def section(name: int, kind: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)

    ident = b"\x7fELF\2\1\1" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, where, 0, 64, 0, 0, 64, 3, 2)
    sections = section(0, 0, 0, 0) + section(1, 1, 64, len(modinfo)) + section(10, 3, 64 + len(modinfo), len(names))
    return header + modinfo + names + sections


class Tree:
    """A directory as an image package makes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "kernel").mkdir(parents=True)

    def add(self, path: str, *strings: str) -> None:
        file = self.root / "kernel" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        raw = module(*strings)
        packers: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.compress, ".gz": gzip.compress}
        file.write_bytes(packers.get(file.suffix, bytes)(raw))

    def order(self, *parents: str) -> list[str]:
        return [name for name, _path in self.plan(*parents)[0]]

    def plan(self, *parents: str) -> tuple[tuple[tuple[str, Path], ...], tuple[str, ...]]:
        kernel = GuestKernel(release="6.1.0", build_id="ab" * 20, image=self.root / "vmlinuz", modules_dir=self.root)
        plan = module_tree(kernel).plan([module_name(parent) for parent in parents])
        return plan.modules, plan.missing


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "lib/modules/6.1.0")


def test_dependencies_come_before_what_needs_them(tree: Tree) -> None:
    tree.add("net/sctp/sctp.ko", "depends=udp-tunnel,libcrc32c", "name=sctp")
    tree.add("net/udp_tunnel.ko.xz", "depends=udp_base")
    tree.add("net/udp-base.ko.gz", "depends=")
    tree.add("lib/libcrc32c.ko", "license=GPL")
    tree.add("lib/unrelated.ko", "depends=sctp")
    assert tree.order("sctp") == ["udp_base", "udp_tunnel", "libcrc32c", "sctp"]


def test_nothing_is_loaded_twice_and_parents_keep_their_order(tree: Tree) -> None:
    for name in ("b", "a"):
        tree.add(f"{name}.ko", "depends=common")
    tree.add("common.ko", "depends=")
    assert tree.order("b", "a", "b") == ["common", "b", "a"]


def test_a_soft_dependency_goes_first_by_name_or_by_alias(tree: Tree) -> None:
    tree.add("lib/libcrc32c.ko", "softdep=pre: crc32c early-one post: later")
    tree.add("crypto/crc32c_generic.ko", "alias=crypto-crc32c", "alias=crc32c")
    tree.add("crypto/early_one.ko")
    tree.add("crypto/later.ko")
    assert tree.order("libcrc32c") == ["crc32c_generic", "early_one", "libcrc32c"]


def test_what_is_built_in_is_not_loaded(tree: Tree) -> None:
    tree.add("fs/xfs.ko", "depends=libcrc32c", "softdep=pre: crc32c")
    tree.add("arch/crc32c_intel.ko", "alias=crc32c")
    (tree.root / "modules.builtin").write_text("kernel/lib/libcrc32c.ko\n")
    (tree.root / "modules.builtin.modinfo").write_bytes(b"crc32c_generic.alias=crc32c\0crc32c_generic.license=GPL\0")
    assert tree.order("xfs", "libcrc32c") == ["xfs"]


def test_vmlinux_needs_no_module_and_an_unknown_parent_is_missing(tree: Tree) -> None:
    tree.add("dummy.ko")
    modules, missing = tree.plan("vmlinux", "xen-gntdev", "dummy")
    assert [name for name, _path in modules] == ["dummy"]
    assert missing == ("xen_gntdev",)


def test_modules_that_wish_for_each_other_end(tree: Tree) -> None:
    tree.add("a.ko", "softdep=pre: b")
    tree.add("b.ko", "softdep=pre: a")
    assert tree.order("a") == ["b", "a"]


def test_a_link_among_the_modules_is_not_followed(tree: Tree, tmp_path: Path) -> None:
    secret = tmp_path / "secret.ko"
    secret.write_bytes(module())
    (tree.root / "kernel" / "link.ko").symlink_to(secret)
    (tree.root / "elsewhere").symlink_to(tmp_path)
    assert tree.plan("link", "secret") == ((), ("link", "secret"))


def test_a_packed_module_is_unpacked_and_a_damaged_one_reported(tree: Tree) -> None:
    tree.add("a.ko.xz", "name=a")
    assert content(tree.root / "kernel/a.ko.xz") == module("name=a")
    (tree.root / "kernel/b.ko.xz").write_bytes(lzma.compress(b"x" * 1000)[:-20])
    with pytest.raises(EnvironmentFault, match=r"b\.ko\.xz cannot be read"):
        content(tree.root / "kernel/b.ko.xz")
    (tree.root / "kernel/c.ko").write_bytes(b"not an ELF file")
    with pytest.raises(EnvironmentFault):
        tree.order("c")


def test_without_the_directory_there_is_a_fault_that_says_so(tmp_path: Path) -> None:
    kernel = GuestKernel(release="6.1.0", build_id="cd" * 20, image=tmp_path, modules_dir=tmp_path / "none")
    with pytest.raises(EnvironmentFault, match="none does not exist"):
        module_tree(kernel)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x" * 56, "a\n", "a.ko", "é"])
def test_what_cannot_be_a_module_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        module_name(name)
