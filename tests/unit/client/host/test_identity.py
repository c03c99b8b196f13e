# SPDX-License-Identifier: GPL-2.0-or-later
"""Identity of a host, read from the files that kernels and distributions provide."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_host import BUILD_ID, RELEASE, SimulatedHost

from elivepatch.client.host.identity import (
    find_config,
    gentoo_patches,
    loaded_modules,
    read_arch,
    read_build_id,
    read_compiler,
    read_identity,
    read_release,
)
from elivepatch.client.host.machine import Host
from elivepatch.kernel.elf import build_id_of_notes
from elivepatch.model.errors import HostError
from elivepatch.model.kernel import Release


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost(tmp_path)


def test_the_identity_is_release_build_id_architecture_configuration_and_compiler(host: SimulatedHost) -> None:
    identity = read_identity(host.machine.host)
    assert (identity.release, identity.build_id, identity.arch) == (RELEASE, BUILD_ID, "x86_64")
    assert identity.compiler == "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
    assert len(identity.config_digest) == 64


def test_a_build_id_is_found_among_other_notes(host: SimulatedHost) -> None:
    name = bytes.fromhex(BUILD_ID)
    other = struct.pack("<III", 6, 4, 0x101) + b"Linux\0\0\0" + b"\0\0\0\0"
    host.put("sys/kernel/notes", other + struct.pack("<III", 4, len(name), 3) + b"GNU\0" + name + other)
    assert read_build_id(host.machine.host) == BUILD_ID


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"\xff" * 64])
def test_a_kernel_without_a_build_id_is_reported(host: SimulatedHost, content: bytes) -> None:
    host.put("sys/kernel/notes", content)
    with pytest.raises(HostError) as caught:
        read_build_id(host.machine.host)
    assert caught.value.problem.code == "build-id-unknown"


@given(st.binary(max_size=300))
def test_any_notes_are_read_to_their_end(notes: bytes) -> None:
    found = build_id_of_notes(notes)
    assert found == "" or bytes.fromhex(found) in notes


@pytest.mark.parametrize("text", ["", "not a release", "../../etc/passwd", "6.1.0/../../x"])
def test_a_malformed_release_is_reported(host: SimulatedHost, text: str) -> None:
    host.put("proc/sys/kernel/osrelease", text)
    with pytest.raises(HostError) as caught:
        read_release(host.machine.host)
    assert caught.value.problem.code == "kernel-unknown"


def test_before_6_1_the_architecture_is_asked_of_uname(host: SimulatedHost) -> None:
    (host.root / "proc/sys/kernel/arch").unlink()
    assert read_arch(host.machine.host)


def test_proc_config_is_preferred_and_decompressed(host: SimulatedHost) -> None:
    host.put("proc/config.gz", gzip.compress(b"CONFIG_LIVEPATCH=y\n"))
    found = find_config(host.machine.host, RELEASE)
    assert found is not None
    assert (found.source, found.content) == ("/proc/config.gz", b"CONFIG_LIVEPATCH=y\n")


@pytest.mark.parametrize(
    "place",
    [
        f"boot/config-{RELEASE}",
        f"lib/modules/{RELEASE}/config",
        f"usr/lib/modules/{RELEASE}/config",
        f"lib/modules/{RELEASE}/build/.config",
    ],
)
def test_distributions_leave_the_configuration_in_several_places(host: SimulatedHost, place: str) -> None:
    (host.root / f"boot/config-{RELEASE}").unlink()
    host.put(place, "CONFIG_X=y\n")
    found = find_config(host.machine.host, RELEASE)
    assert found is not None
    assert found.source == f"/{place}"


def test_a_bomb_or_garbage_in_the_place_of_a_configuration_is_passed_over(host: SimulatedHost) -> None:
    host.put("proc/config.gz", gzip.compress(b"CONFIG_X=y\n" * 1_000_000))
    found = find_config(host.machine.host, RELEASE)
    assert found is not None
    assert found.source == f"/boot/config-{RELEASE}"
    host.put("proc/config.gz", b"\x1f\x8b garbage")
    assert find_config(host.machine.host, RELEASE) == found


def test_without_a_configuration_the_kernels_own_words_name_the_compiler(host: SimulatedHost) -> None:
    assert read_compiler(host.machine.host, None) == "gcc-12 (Debian 12.2.0) 12.2.0"


@pytest.mark.parametrize(
    ("compiler", "linker"),
    [
        ("gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "GNU ld version 2.41-37.fc40"),
        ("x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0", "GNU ld (GNU Binutils for Ubuntu) 2.42"),
        ("gcc (SUSE Linux) 7.5.0", "GNU ld (GNU Binutils; SUSE Linux Enterprise 15) 2.41.0"),
        ("gcc10-gcc (GCC) 10.5.0 20230707 (Red Hat 10.5.0-1)", "GNU ld version 2.35.2-9.amzn2.0.1"),
        ("x86_64-pc-linux-gnu-gcc (Gentoo 10.2.0-r2 p3) 10.2.0", "GNU ld (Gentoo 2.35.1 p2) 2.35.1"),
        ("Debian clang version 19.1.7 (3)", "Debian LLD 19.1.7"),
    ],
)
def test_the_compiler_of_any_distribution_is_taken_from_the_kernels_own_words(
    host: SimulatedHost, compiler: str, linker: str
) -> None:
    host.put("proc/version", f"Linux version 6.8.0 (root@build (1)) (x@y) ({compiler}, {linker}) #1 SMP (2026)\n")
    assert read_compiler(host.machine.host, None) == compiler


@pytest.mark.parametrize(
    "words", ["", "Linux version 6.8.0 (x@y) (tcc, GNU ld) #1\n", "Linux version 6.8.0 (x@y) #1\n"]
)
def test_without_the_name_of_a_compiler_there_is_none(host: SimulatedHost, words: str) -> None:
    host.put("proc/version", words)
    assert read_compiler(host.machine.host, None) == ""


def test_modules_are_read_with_their_uses_and_taints(host: SimulatedHost) -> None:
    host.put("proc/modules", "elp_a 16384 1 - Live 0x0 (OEK)\next4 900000 3 jbd2, Live 0x0\nshort\n")
    first, second = loaded_modules(host.machine.host)
    assert (first.name, first.uses, first.taints) == ("elp_a", 1, "OEK")
    assert (second.name, second.size_bytes, second.taints) == ("ext4", 900000, "")


def test_a_large_file_is_read_in_pieces_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 300_000)
    assert len(Host(tmp_path).read("large", 200_000)) == 200_000


class TestGentoo:
    BASE = "etc/portage/patches/sys-kernel"

    def test_patches_of_all_matching_directories_are_sorted_by_name(self, host: SimulatedHost) -> None:
        host.put(f"{self.BASE}/gentoo-sources/20-b.patch", "b")
        host.put(f"{self.BASE}/gentoo-sources-6.6.30/10-a.diff", "a")
        host.put(f"{self.BASE}/gentoo-sources/notes.txt", "no")
        host.put(f"{self.BASE}/gentoo-sources-6.6.31/99-other.patch", "no")
        found = gentoo_patches(host.machine.host, Release("6.6.30-gentoo-x86_64"))
        assert [(patch.name, patch.content) for patch in found] == [("10-a.diff", b"a"), ("20-b.patch", b"b")]

    def test_a_more_specific_directory_wins_and_an_empty_file_takes_away(self, host: SimulatedHost) -> None:
        host.put(f"{self.BASE}/gentoo-sources/1.patch", "general")
        host.put(f"{self.BASE}/gentoo-sources-6.6.30-r1/1.patch", "special")
        host.put(f"{self.BASE}/gentoo-sources/2.patch", "general")
        host.put(f"{self.BASE}/gentoo-sources-6.6.30/2.patch", "")
        found = gentoo_patches(host.machine.host, Release("6.6.30-gentoo-r1"))
        assert [patch.content for patch in found] == [b"special"]

    def test_the_distribution_kernel_has_its_own_directory(self, host: SimulatedHost) -> None:
        host.put(f"{self.BASE}/gentoo-kernel/1.patch", "x")
        assert len(gentoo_patches(host.machine.host, Release("6.6.30-gentoo-dist"))) == 1
        assert gentoo_patches(host.machine.host, Release("6.6.30-gentoo")) == ()

    def test_the_configuration_root_is_respected(self, host: SimulatedHost) -> None:
        host.put(f"srv/root/{self.BASE}/gentoo-sources/1.patch", "x")
        assert len(gentoo_patches(host.machine.host, Release("6.6.30-gentoo"), "/srv/root")) == 1

    def test_other_distributions_have_none(self, host: SimulatedHost) -> None:
        host.put(f"{self.BASE}/gentoo-sources/1.patch", "x")
        assert gentoo_patches(host.machine.host, RELEASE) == ()
