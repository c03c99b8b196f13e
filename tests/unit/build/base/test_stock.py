# SPDX-License-Identifier: GPL-2.0-or-later
"""From a kernel's name to its packages, and the gates a stock base passes before it exists."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from elf_maker import Made

from elivepatch.build.base import stock
from elivepatch.build.base.apt import Archive, Package, distributions, has_package
from elivepatch.build.base.common import BaseContext, BaseDraft
from elivepatch.build.base.debug_info import check_compiler, struct_sizes
from elivepatch.build.base.stock import StockMaker, find_packages, read_packages, resolve
from elivepatch.build.base.tree import (
    config_gate,
    makefile_version,
    may_be_of,
    objtool_per_object,
    one_command_for_objects,
)
from elivepatch.build.roots.description import Toolchain
from elivepatch.kernel.config import KernelConfig
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.model.kernel import Digest, parse_release


def package(name: str, version: str, depends: str = "", content: bytes = b"") -> Package:
    return Package(
        name=name,
        version=version,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        depends=depends,
    )


class Shelf:
    """A fake archive: its answers, newest version first."""

    def __init__(self, packages: Iterable[Package]) -> None:
        self._packages = list(packages)

    def versions(self, name: str) -> list[Package]:
        return [one for one in self._packages if one.name == name]

    def unreadable_note(self) -> str:
        return " Suites that could not be read: forky (expired)."

    def find(self, name: str, version: str) -> Package:
        for one in self.versions(name):
            if one.version == version:
                return one
        raise EnvironmentFault("package-missing", f"{name} {version}", advice="None.")


def shelf(*packages: Package) -> Archive:
    return cast("Archive", Shelf(packages))


META = shelf(
    package("linux-image-cloud-amd64", "7.2.12-1~bpo13+1", "linux-image-7.2.12+deb13-cloud-amd64 (= 7.2.12-1~bpo13+1)"),
    package("linux-image-cloud-amd64", "6.12.117-1", "linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)"),
    package("linux-image-cloud-amd64", "6.12.107-1", "linux-image-6.12.107+deb13-cloud-amd64 (= 6.12.107-1)"),
    package("linux-image-cloud-amd64", "6.1.176-1", "linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)"),
    package("linux-image-cloud-amd64", "5.10.262-1", "linux-image-5.10.0-46-cloud-amd64 (= 5.10.262-1)"),
    package("linux-image-cloud-amd64", "7.2.13-1", "linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)"),
    package("linux-image-amd64", "6.12.90-2", "linux-image-6.12.90+deb13.1-amd64 (= 6.12.90-2)"),
    package("linux-image-amd64", "6.12.95-1~bpo12+1", "linux-image-6.12.95+deb12-amd64 (= 6.12.95-1~bpo12+1)"),
    package("linux-image-amd64", "6.1.192-3", "linux-image-6.1.0-51-amd64 (= 6.1.192-3)"),
    package("linux-image-6.12-amd64", "6.12.117-1~deb12u1", "linux-image-6.12.117+deb12-amd64 (= 6.12.117-1~deb12u1)"),
    package("linux-image-rt-amd64", "6.1.176-1", "linux-image-6.1.0-50-rt-amd64 (= 6.1.176-1)"),
)


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("debian-11-cloud", "5.10.0-46-cloud-amd64"),
        ("debian-12-cloud", "6.1.0-50-cloud-amd64"),
        ("debian-12", "6.1.0-51-amd64"),
        ("debian-12-rt", "6.1.0-50-rt-amd64"),
        ("debian-12-backports", "6.12.117+deb12-amd64"),
        ("debian-13", "6.12.90+deb13.1-amd64"),
        ("debian-13-cloud", "6.12.117+deb13-cloud-amd64"),
        ("debian-13-backports-cloud", "7.2.12+deb13-cloud-amd64"),
        ("debian-sid-cloud", "7.2.13+deb14-cloud-amd64"),
        ("6.1.0-49-cloud-amd64", "6.1.0-49-cloud-amd64"),
    ],
)
def test_a_name_means_the_newest_stock_kernel_of_its_release(name: str, release: str) -> None:
    assert resolve(name, META) == release


def test_a_name_whose_kernel_no_archive_has_is_told() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        resolve("debian-13", shelf())
    assert caught.value.problem.code == "kernel-not-in-archive"


def test_what_is_neither_name_nor_release_is_refused() -> None:
    with pytest.raises(UsageError):
        resolve("../debian-13", META)


@pytest.mark.parametrize("name", sorted(distributions()))
def test_every_name_has_a_package_a_pattern_and_suites(name: str) -> None:
    assert {"package", "release", "suites"} <= distributions()[name].keys()


def kernel(release: str, version: str, source: str, depends: str = "") -> list[Package]:
    names = [f"linux-image-{release}", f"linux-headers-{release}", f"linux-image-{release}-dbg", source]
    return [package(names[0], version, depends), *[package(name, version) for name in names[1:]]]


@pytest.mark.parametrize(
    ("release", "version", "source"),
    [
        ("6.1.0-50-cloud-amd64", "6.1.176-1", "linux-source-6.1"),
        ("6.12.107+deb13-cloud-amd64", "6.12.107-1", "linux-source-6.12"),
        ("7.2.12+deb13-cloud-amd64", "7.2.12-1~bpo13+1", "linux-source-7.2"),
        ("7.3-amd64", "7.3-1", "linux-source-7.3"),
        ("7.3-rc7-amd64", "7.3~rc7-1~exp1", "linux-source-7.3"),
    ],
)
def test_a_release_has_four_packages_of_one_version(release: str, version: str, source: str) -> None:
    found = find_packages(parse_release(release), shelf(*kernel(release, version, source)))
    assert [one.name for one in found.all()] == [
        f"linux-image-{release}", f"linux-headers-{release}", source, f"linux-image-{release}-dbg",
    ]  # fmt: skip
    assert {one.version for one in found.all()} == {version}


def test_a_split_image_brings_its_parts() -> None:
    release, version = "7.2.12+deb13-cloud-amd64", "7.2.12-1"
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    depends = ", ".join(f"{part} (= {version})" for part in parts) + ", linux-base (>= 4.3), linux-modules-other"
    found = find_packages(
        parse_release(release),
        shelf(*kernel(release, version, "linux-source-7.2", depends), *[package(part, version) for part in parts]),
    )
    assert [one.name for one in found.image] == [f"linux-image-{release}", *parts]


def test_an_unknown_release_is_told_with_the_names_there_are() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        find_packages(parse_release("9.9.9-amd64"), shelf())
    assert caught.value.problem.code == "kernel-not-in-archive"
    assert "9.9.9-amd64" in caught.value.problem.message
    assert "forky (expired)" in caught.value.problem.message
    assert "debian-13" in caught.value.problem.advice


@pytest.mark.parametrize(
    "release", ["7.2.12+deb13-cloud-arm64", "6.1.0-50-686", "6.1.0-50-686-pae", "6.1.0-50-rt-686-pae"]
)
def test_a_kernel_of_another_architecture_is_refused_with_the_reason(release: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        find_packages(parse_release(release), shelf(*kernel(release, "7.2.12-1", "linux-source-7.2")))
    assert caught.value.problem.code == "arch-unsupported"


def test_a_kernel_whose_debug_package_is_gone_is_told() -> None:
    release = "6.1.0-50-cloud-amd64"
    packages = [one for one in kernel(release, "6.1.176-1", "linux-source-6.1") if not one.name.endswith("-dbg")]
    with pytest.raises(EnvironmentFault, match="-dbg"):
        find_packages(parse_release(release), shelf(*packages))


@pytest.mark.parametrize("name", ["", "-o=x", "../x", "a b", "x;id", "a\n", "é"])
def test_a_name_that_is_no_package_is_never_given_to_apt(tmp_path: Path, name: str) -> None:
    assert Archive(tmp_path / "never-made").versions(name) == []
    assert not (tmp_path / "never-made").exists()


@pytest.mark.parametrize("damage", [b"deb!", b"de", b"", b"dexx"])
def test_a_file_that_is_not_what_the_index_names_does_not_match(tmp_path: Path, damage: bytes) -> None:
    wanted = package("p", "1", content=b"deb")
    (tmp_path / "p.deb").write_bytes(b"deb")
    assert has_package(tmp_path / "p.deb", wanted)
    (tmp_path / "p.deb").write_bytes(damage)
    assert not has_package(tmp_path / "p.deb", wanted)


def test_a_file_that_is_not_there_does_not_match(tmp_path: Path) -> None:
    assert not has_package(tmp_path / "p.deb", package("p", "1"))
    assert not has_package(tmp_path, package("p", "1"))


class Interrupted:
    """A base in the making whose operator presses Ctrl-C as soon as the source's turn comes."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def tree_maker(self) -> NoReturn:
        raise KeyboardInterrupt


def test_an_interruption_does_not_wait_for_the_debug_package(tmp_path: Path) -> None:
    package = tmp_path / "never-comes.deb"
    os.mkfifo(package)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        read_packages(cast("BaseDraft", Interrupted(tmp_path)), package, package, "6.1.176-1")
    assert time.monotonic() - started < 10


def test_a_differing_configuration_stops_the_base_and_is_shown() -> None:
    shipped = KernelConfig({"DEBUG_INFO_BTF_MODULES": "y", "BUILD_SALT": "a", **{f"A{n}": "y" for n in range(40)}})
    prepared = KernelConfig({"BUILD_SALT": "b"})
    with pytest.raises(EnvironmentFault) as caught:
        config_gate(shipped, prepared, "6.1")
    problem = caught.value.problem
    assert problem.code == "config-gate"
    assert "41 options differ" in problem.message
    assert len(problem.excerpt.splitlines()) == 20
    config_gate(shipped, shipped, "6.1")


def test_a_lost_option_is_shown_with_both_values() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        config_gate(KernelConfig({"RUST": "y"}), KernelConfig({}), "7.2")
    assert caught.value.problem.excerpt == "CONFIG_RUST: y became n"


TOOLCHAIN: dict[str, Any] = {
    "name": "debian-12", "root": Path("/nowhere"), "digest": Digest("0"), "compiler": "gcc-12", "size_bytes": 1,
    "seconds": 1.0, "comment": "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", "rust": False, "declared": "",
    "says": "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0",
}  # fmt: skip


@pytest.mark.parametrize(
    "comment", [b"GCC: (Debian 12.2.0-15) 12.2.0\0", b"", b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0GCC: (x) 1\0"]
)
def test_a_kernel_of_another_compiler_than_its_configuration_names_is_refused(tmp_path: Path, comment: bytes) -> None:
    elf = ElfFile(Made().section(".comment", comment).write(tmp_path / "vmlinux"))
    with pytest.raises(EnvironmentFault) as caught:
        check_compiler(elf, Toolchain(**TOOLCHAIN), "6.1")
    assert caught.value.problem.code == "toolchain-match"
    assert "12.2.0-14+deb12u1" in caught.value.problem.message


def test_a_kernel_of_the_toolchains_compiler_is_accepted(tmp_path: Path) -> None:
    comment = TOOLCHAIN["comment"].encode() + b"\0"
    check_compiler(
        ElfFile(Made().section(".comment", comment * 2).write(tmp_path / "vmlinux")), Toolchain(**TOOLCHAIN), "6.1"
    )


def test_a_kernel_of_clang_is_known_by_its_own_comment_and_not_by_its_linkers(tmp_path: Path) -> None:
    clang = "Debian clang version 19.1.7 (3+b1)"
    comment = f"{clang}\0Linker: Debian LLD 19.1.7 (compatible with GNU linkers)\0{clang}\0".encode()
    elf = ElfFile(Made().section(".comment", comment).write(tmp_path / "vmlinux"))
    check_compiler(elf, Toolchain(**TOOLCHAIN | {"comment": clang}), "6.12")
    with pytest.raises(EnvironmentFault):
        check_compiler(elf, Toolchain(**TOOLCHAIN | {"comment": "Debian clang version 18.1.8"}), "6.12")


SIZES = "alt_instr\t14\t0\nbug_entry\t12\t0\nexception_table_entry\t12\t0\njump_entry\t16\t0\norc_entry\t6\t0\n"


def test_sizes_of_special_structures_are_read() -> None:
    sizes = struct_sizes(SIZES + "static_call_site\t8\t0\nlist_head\t16\t0\n")
    assert sizes["ALT_STRUCT_SIZE"] == 14
    assert sizes["STATIC_CALL_STRUCT_SIZE"] == 8
    assert sizes["PARA_STRUCT_SIZE"] == 0, "kernels from 6.8 on have none"


def test_a_missing_special_structure_is_named() -> None:
    with pytest.raises(EnvironmentFault, match="ORC_STRUCT_SIZE"):
        struct_sizes(SIZES.replace("orc_entry", "other"))


def test_objtool_runs_on_each_object_of_a_kernel_with_ibt(tmp_path: Path) -> None:
    makefile = tmp_path / "scripts/Makefile.lib"
    makefile.parent.mkdir()
    makefile.write_text(
        "objtool-args-$(CONFIG_X86_KERNEL_IBT) += --ibt\ndelay-objtool := $(or $(A),$(B))\nother := 1\n"
    )
    objtool_per_object(tmp_path)
    assert makefile.read_text() == (
        "# objtool-args-$(CONFIG_X86_KERNEL_IBT) += --ibt\ndelay-objtool := $(CONFIG_LTO_CLANG)\nother := 1\n"
    )


def test_a_build_system_that_delays_objtool_in_another_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/Makefile.lib").write_text("nothing of the kind\n")
    with pytest.raises(EnvironmentFault) as caught:
        objtool_per_object(tmp_path)
    assert caught.value.problem.code == "kernel-unsupported"


OBJECT_RULES = """quiet_cmd_cc_o_c = CC $@
      cmd_cc_o_c = $(CC) -c -o $@ $<
define rule_cc_o_c
\t$(call cmd_and_fixdep,cc_o_c)
\t$(call cmd,checksrc)
\t$(call cmd,objtool)
\t$(call cmd,modversions_c)
endef

define rule_as_o_S
\t$(call cmd,objtool)
endef
"""


def makefile_build(tmp_path: Path, text: str) -> str:
    (tmp_path / "scripts").mkdir()
    path = tmp_path / "scripts/Makefile.build"
    path.write_text(text)
    one_command_for_objects(tmp_path)
    once = path.read_text()
    one_command_for_objects(tmp_path)
    assert path.read_text() == once, "the tree of a debugging kernel was prepared before"
    return once


def test_what_the_rule_of_an_old_kernel_runs_becomes_part_of_the_command_that_make_saves(tmp_path: Path) -> None:
    steps = "$(if $(strip $(cmd_objtool)), ; $(cmd_objtool))$(if $(strip $(cmd_modversions_c)), ; $(cmd_modversions_c))"
    found = makefile_build(tmp_path, OBJECT_RULES)
    assert f"      cmd_cc_o_c = $(CC) -c -o $@ $<{steps}\n" in found
    assert "define rule_cc_o_c\n\t$(call cmd_and_fixdep,cc_o_c)\n\t$(call cmd,checksrc)\nendef\n" in found
    assert "define rule_as_o_S\n\t$(call cmd,objtool)\nendef\n" in found, "assembly is not compiled again"


def test_a_kernel_whose_saved_command_is_whole_is_left_alone(tmp_path: Path) -> None:
    whole = OBJECT_RULES.replace("\t$(call cmd,objtool)\n\t$(call cmd,modversions_c)\n", "", 1)
    assert makefile_build(tmp_path, whole) == whole


def test_a_rule_whose_command_is_not_found_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        makefile_build(tmp_path, OBJECT_RULES.replace("$(CC) ", "$(COMPILER) "))
    assert caught.value.problem.code == "kernel-unsupported"


@pytest.mark.parametrize(
    ("makefile", "version"),
    [
        ("# SPDX\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 107\nEXTRAVERSION =\nNAME = Baby\n", "6.12.107"),
        ("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 0\nEXTRAVERSION = -rc7\n", "7.3.0-rc7"),
        ("all:\n", ""),
    ],
)
def test_the_version_of_a_source_is_read_from_its_makefile(makefile: str, version: str) -> None:
    assert makefile_version(makefile) == version


@pytest.mark.parametrize(
    ("release", "version", "may"),
    [
        ("6.12.107-ours", "6.12.107", True),
        ("6.12.107", "6.12.107", True),
        ("6.1.0-50-cloud-amd64", "6.1.176", True),
        ("7.3-amd64", "7.3.0-rc7", True),
        ("6.12.40-ours", "6.12.107", False),
        ("6.1.176-ours", "6.12.176", False),
        ("6.1.176-ours", "", False),
    ],
)
def test_a_release_is_of_a_source_of_its_version(release: str, version: str, may: bool) -> None:
    assert may_be_of(release, version) is may


@pytest.mark.parametrize("linked", ["scripts", "scripts/Makefile.lib"])
def test_nothing_is_written_through_a_link_in_a_source(tmp_path: Path, linked: str) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (outside / "scripts").mkdir(parents=True)
    kept = outside / "scripts/Makefile.lib"
    kept.write_text("objtool-args-$(CONFIG_X86_KERNEL_IBT) += --ibt\ndelay-objtool := x\n")
    (tree / linked).parent.mkdir(parents=True, exist_ok=True)
    (tree / linked).symlink_to(outside / linked)
    with pytest.raises(ElivepatchError):
        objtool_per_object(tree)
    assert "# objtool" not in kept.read_text()


class Counter:
    """A shelf whose packages are taken one by one, and one of which may be gone."""

    def __init__(self, packages: Iterable[Package], gone: str = "") -> None:
        shelf, self._gone = Shelf(packages), gone
        self.taken: list[str] = []
        self.versions, self.find, self.unreadable_note = shelf.versions, shelf.find, shelf.unreadable_note

    def download(self, packages: list[Package], _progress: object) -> list[Path]:
        for one in packages:
            if one.name == self._gone:
                raise EnvironmentFault("package-gone", f"the archive lost {one.name}.", advice="None.")
            self.taken.append(one.name)
        return [Path(one.name) for one in packages]

    def kernels_like(self, _release: str) -> list[str]:
        return ["6.1.0-49-cloud-amd64"]


class Place:
    """A context in which the toolchain is found or not."""

    progress = None

    def __init__(self, directory: Path, fault: EnvironmentFault | None = None) -> None:
        self.bases = SimpleNamespace(directory=directory)
        self._directory, self._fault = directory, fault

    def report(self, *_: object) -> None:
        """Do nothing."""

    def begin(self, *_: object) -> None:
        if self._fault is not None:
            raise self._fault

    def publish(self, _release: str, make: Callable[[Path], object]) -> object:
        return make(self._directory)


def added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, gone: str = "", fault: EnvironmentFault | None = None
) -> tuple[str, str, list[str]]:
    """Add a kernel whose image has `config`; return the code and the advice of the refusal, and what was downloaded."""
    release = "6.1.0-50-cloud-amd64"
    archive = Counter(kernel(release, "6.1.176-1", "linux-source-6.1"), gone)

    def unpack(_package: Path, into: Path) -> None:
        (into / "boot").mkdir(parents=True, exist_ok=True)
        (into / f"boot/config-{release}").write_text(config)

    monkeypatch.setattr(stock, "_unpack", unpack)
    maker = StockMaker(cast("Archive", archive), cast("BaseContext", Place(tmp_path, fault)))
    with pytest.raises(ElivepatchError) as caught:
        maker.add(release)
    return caught.value.problem.code, caught.value.problem.advice, archive.taken


GOOD = "CONFIG_X86_64=y\nCONFIG_LIVEPATCH=y\nCONFIG_MODULES=y\nCONFIG_KALLSYMS_ALL=y\n"
IMAGE = "linux-image-6.1.0-50-cloud-amd64"


def test_a_kernel_without_livepatches_is_refused_before_its_debug_package_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, taken = added(tmp_path, monkeypatch, GOOD.replace("LIVEPATCH=y", "LIVEPATCH=n"))
    assert (code, taken) == ("config-livepatch", [IMAGE])


def test_a_kernel_whose_compiler_is_nowhere_is_refused_before_its_debug_package_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = EnvironmentFault("toolchain-match", "No toolchain.", advice="Bring it.")
    assert added(tmp_path, monkeypatch, GOOD, fault=fault) == ("toolchain-match", "Bring it.", [IMAGE])


def test_a_lost_debug_package_is_told_before_anything_else_is_fetched_with_kernels_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, advice, taken = added(tmp_path, monkeypatch, GOOD, gone=f"{IMAGE}-dbg")
    assert (code, taken) == ("package-gone", [IMAGE])
    assert "6.1.0-49-cloud-amd64" in advice


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_place: Path, needed: int, _work: str) -> None:
        raise EnvironmentFault("disk-room", f"{needed}", advice="Make room.")

    monkeypatch.setattr(stock, "require_room", full)
    assert added(tmp_path, monkeypatch, GOOD) == ("disk-room", "Make room.", [])
