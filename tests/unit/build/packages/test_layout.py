# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of files in packages: each distribution's are known, and none is taken for another kernel's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.packages.layout import Role, place_of, plain_name, releases_in

DEBIAN, FEDORA, SUSE, UBUNTU, ARCH = (
    "6.12.118+deb13-amd64", "6.17.4-200.fc42.x86_64", "6.4.0-150600.23.7-default", "6.8.0-45-generic",
    "6.12.1-arch1-1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("release", "name", "role", "below"),
    [
        (DEBIAN, "./boot/vmlinuz-{}", Role.IMAGE, "vmlinuz-{}"),
        (DEBIAN, "usr/lib/modules/{}/config", Role.CONFIG, "config"),
        (DEBIAN, "usr/src/linux-headers-{}/Module.symvers", Role.EXPORTS, "Module.symvers"),
        (DEBIAN, "usr/lib/debug/boot/vmlinux-{}", Role.KERNEL, "vmlinux-{}"),
        (DEBIAN, "usr/lib/debug/usr/lib/modules/{}/vmlinux", Role.KERNEL, "vmlinux"),
        (DEBIAN, "usr/lib/debug/lib/modules/{}/kernel/fs/fat/fat.ko", Role.DEBUG, "kernel/fs/fat/fat.ko"),
        (DEBIAN, "lib/modules/{}/modules.builtin.modinfo", Role.TABLE, "modules.builtin.modinfo"),
        (FEDORA, "/lib/modules/{}/vmlinuz", Role.IMAGE, "vmlinuz"),
        (FEDORA, "/lib/modules/{}/symvers.xz", Role.EXPORTS, "symvers.xz"),
        (FEDORA, "/lib/modules/{}/kernel/fs/fat/fat.ko.xz", Role.MODULE, "kernel/fs/fat/fat.ko.xz"),
        (FEDORA, "/usr/lib/debug/lib/modules/{}/vmlinux", Role.KERNEL, "vmlinux"),
        (FEDORA, "/usr/lib/debug/lib/modules/{}/kernel/fs/fat/fat.ko.debug", Role.DEBUG, "kernel/fs/fat/fat.ko.debug"),
        (FEDORA, "/usr/src/kernels/{}/.config", Role.CONFIG, ".config"),
        (SUSE, "/boot/symvers-{}.gz", Role.EXPORTS, "symvers-{}.gz"),
        (SUSE, "/boot/vmlinux-{}.xz", Role.KERNEL, "vmlinux-{}.xz"),
        (SUSE, "/usr/lib/debug/boot/vmlinux-{}.debug", Role.KERNEL, "vmlinux-{}.debug"),
        (SUSE, "/usr/lib/modules/{}/kernel/fs/fat/fat.ko.zst", Role.MODULE, "kernel/fs/fat/fat.ko.zst"),
        (UBUNTU, "lib/modules/{}/kernel/fs/fat/fat.ko.zst", Role.MODULE, "kernel/fs/fat/fat.ko.zst"),
        (ARCH, "usr/lib/modules/{}/build/Module.symvers", Role.EXPORTS, "Module.symvers"),
        (ARCH, "usr/lib/modules/{}/build/.config", Role.CONFIG, ".config"),
        ("6.12.40-ours", "vmlinux-{}", Role.KERNEL, "vmlinux-{}"),
    ],
)
def test_the_places_of_each_distribution_are_known(release: str, name: str, role: Role, below: str) -> None:
    place = place_of(plain_name(name.format(release)), release)
    assert place is not None
    assert (place.role, place.name) == (role, below.format(release))


@pytest.mark.parametrize(
    "name",
    [
        "boot/vmlinuz-6.12.40-ours2", "boot/vmlinuz-6.12.40", "boot/vmlinuz-6x12.40-ours", "boot/.vmlinuz-6.12.40-ours",
        "lib/modules/6.12.40-ours/build/include/linux/fs.h", "lib/modules/6.12.40-ours-rt/kernel/fat.ko",
        "srv/boot/vmlinuz-6.12.40-ours", "lib/modules/6.12.40-ours/kernel/a*.ko", "lib/modules/6.12.40-ours/vmlinuz/x",
    ],
)  # fmt: skip
def test_a_file_of_another_kernel_or_use_has_no_place(name: str) -> None:
    assert place_of(plain_name(name), "6.12.40-ours") is None


@given(st.text(max_size=60), st.sampled_from(["6.12.40-ours", "6.1.0+x", "6.1.0~rc1"]))
def test_every_place_is_below_its_directory_and_of_its_release(name: str, release: str) -> None:
    for text in (name, f"lib/modules/{release}/{name}", f"lib/modules/{release}/kernel/{name}.ko"):
        place = place_of(plain_name(text), release)
        if place is not None:
            assert release in plain_name(text)
            assert ".." not in place.name.split("/")
            assert not place.name.startswith("/")


def test_the_kernels_of_a_directory_are_known_by_their_modules() -> None:
    names = ["lib/modules/6.12.40-ours/kernel/fs/fat.ko", "usr/lib/modules/6.1.1/modules.order", "boot/vmlinuz-6.3"]
    assert releases_in(names) == {"6.12.40-ours", "6.1.1"}
