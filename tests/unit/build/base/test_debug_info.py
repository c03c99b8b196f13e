# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a stranger's kernel: what parsed it leaves its files in one place, and its compiler is known by its word."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import pytest
from built_tree import MODULE, built_tree
from compiled import needs_gcc
from dwarf_maker import STRING, Dwarf
from elf_maker import GLOBAL, NOTYPE, Made
from outside import OutsideSandbox

from elivepatch.build.base.debug_info import (
    DebugInfo,
    check_compiler,
    measured_sizes,
    read_debug_info,
    read_debug_package,
    strip_modules,
    struct_sizes,
)
from elivepatch.build.roots.description import Toolchain
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.kbuild.record import read_build
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import Digest
from elivepatch.process import Completed, run

SIZES = "alt_instr\t14\t0\nbug_entry\t12\t0\nexception_table_entry\t12\t0\njump_entry\t16\t0\norc_entry\t6\t0\n"


def debugged(*names: str, compressed: bool = False) -> bytes:
    """Return a kernel or module that was compiled from the sources `names`."""
    dwarf = Dwarf()
    for name in names:
        dwarf.unit(name, STRING)
    made = dwarf.made() if names else Made().section(".text", b"\xc3", code=True)
    return made.section(".debug_line", flags=0x800 if compressed else 0).data()


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Make a directory with a kernel and its modules."""
    files = {
        "vmlinux": debugged("init/main.c", "lib/shared.c"),
        "lib/fs/a-b.ko": debugged("drivers/a.c", "lib/../lib/shared.c"),
        "lib/net/c.ko": debugged("net/c.c"),
        "lib/notes": b"no module",
    }
    for name, content in files.items():
        (tmp_path / "built" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "built" / name).write_bytes(content)
    return tmp_path / "built"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Make a file of the host that only root may read."""
    path = tmp_path / "secret"
    path.write_text(SIZES)
    path.chmod(0o600)
    return path


def good(output: Path) -> None:
    """Leave what objcopy and pahole leave."""
    (output / "vmlinux").write_text("kernel")
    (output / "sizes").write_text(SIZES)


def read(built: Path, sandbox: OutsideSandbox | None = None) -> tuple[DebugInfo, Path]:
    into = built.parent / "base"
    into.mkdir()
    sandbox = sandbox or OutsideSandbox(leaves=good)
    sandbox.runs = False
    return read_debug_info(sandbox.sandbox, inputs=built, vmlinux="vmlinux", into=into), into


def test_the_kernel_and_the_symbols_of_its_modules_become_files_of_ours(built: Path) -> None:
    _, into = read(built)
    assert sorted(path.name for path in into.rglob("*")) == ["a-b.ko", "c.ko", "symbols", "vmlinux"]
    seen = (into / "vmlinux").stat()
    assert (seen.st_uid, stat.S_IMODE(seen.st_mode)) == (os.getuid(), 0o644)


def test_each_source_has_the_kernel_or_the_modules_that_it_is_in(built: Path) -> None:
    facts, _ = read(built)
    assert facts.compiled == {
        "init/main.c": ("init/main.c", {"vmlinux"}),
        "lib/shared.c": ("lib/shared.c", {"vmlinux", "a_b"}),
        "drivers/a.c": ("drivers/a.c", {"a_b"}),
        "net/c.c": ("net/c.c", {"c"}),
    }
    assert facts.struct_sizes["ORC_STRUCT_SIZE"] == 6


def test_a_module_whose_sources_are_not_known_is_refused(built: Path) -> None:
    """A patch of them would be "not built", which is to say that nothing has to be done."""
    (built / "lib/snd-hda-intel.ko").write_bytes(debugged())
    with pytest.raises(EnvironmentFault) as caught:
        read(built)
    assert caught.value.problem.code == "debug-info"
    assert "1 of 3 modules" in caught.value.problem.message
    assert "snd_hda_intel" in caught.value.problem.message


def test_a_kernel_whose_sources_are_not_known_is_refused(built: Path) -> None:
    (built / "vmlinux").write_bytes(debugged())
    with pytest.raises(EnvironmentFault) as caught:
        read(built)
    assert caught.value.problem.code == "debug-info"


@pytest.mark.parametrize("name", ["vmlinux", "sizes"])
def test_a_link_in_place_of_a_file_is_neither_read_nor_changed(built: Path, secret: Path, name: str) -> None:
    def leaves(output: Path) -> None:
        good(output)
        (output / name).unlink()
        (output / name).symlink_to(secret)

    before = secret.stat()
    with pytest.raises(EnvironmentFault) as caught:
        read(built, OutsideSandbox(leaves=leaves))
    assert caught.value.problem.code == "sandbox-output"
    assert secret.stat().st_mode == before.st_mode
    assert secret.stat().st_uid == before.st_uid


def test_a_link_among_the_modules_is_not_read(built: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.ko").write_bytes(debugged("outside.c"))
    (built / "lib/link.ko").symlink_to(tmp_path / "outside.ko")
    facts, into = read(built)
    assert "outside.c" not in facts.compiled
    assert not (into / "symbols/link.ko").exists()


def test_compressed_debug_information_is_decompressed_in_the_sandbox(built: Path) -> None:
    (built / "lib/net/c.ko").write_bytes(debugged("net/zipped.c", compressed=True))

    def leaves(output: Path) -> None:
        good(output)
        (output / "plain").write_bytes(debugged("net/c.c"))

    sandbox = OutsideSandbox(leaves=leaves)
    facts, into = read(built, sandbox)
    assert facts.compiled["net/c.c"] == ("net/c.c", {"c"})
    assert [argv[-1] for argv in sandbox.programs] == ["vmlinux", "lib/net/c.ko"]
    assert not list(into.glob(".*"))


class Package:
    """A sandbox in which dpkg-deb prints these files, and other programs leave what is good."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.most = 0

    def run(
        self,
        argv: list[str],
        *,
        inputs: Path,
        output: Path | None = None,
        printed_to: IO[bytes] | None = None,
        **_: Any,
    ) -> Completed:
        if printed_to is not None:
            with tarfile.open(fileobj=printed_to, mode="w|") as archive:
                for name, content in self.files.items():
                    member = tarfile.TarInfo(f"./{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                    self.most = max(self.most, len(list((inputs / "base/debug").glob("*.ko"))))
        elif output is not None:
            good(output)
        return Completed(argv=tuple(argv), status=0, output=b"", log=b"", seconds=0.1, timed_out=False)


@pytest.mark.parametrize("place", ["boot/vmlinux-6.1.0-50-amd64", "usr/lib/modules/6.1.0-50-amd64/vmlinux"])
def test_a_debug_package_gives_what_its_unpacked_files_give(built: Path, tmp_path: Path, place: str) -> None:
    """Newer packages have the kernel behind its modules."""
    kernel = {f"usr/lib/debug/{place}": (built / "vmlinux").read_bytes()}
    modules = {
        f"usr/lib/debug/lib/modules/6.1.0-50-amd64/{path.relative_to(built / 'lib')}": path.read_bytes()
        for path in built.rglob("*.ko")
    }
    package = Package(kernel | modules if "boot" in place else modules | kernel)
    into = tmp_path / "base"
    into.mkdir()
    facts = read_debug_package(
        cast("Sandbox", package), package=tmp_path / "a.deb", release="6.1.0-50-amd64", into=into
    )
    assert package.most <= 1, "a module is on the disk only while it is read"
    (built.parent / "whole").mkdir()
    expected = read_debug_info(cast("Sandbox", package), inputs=built, vmlinux="vmlinux", into=built.parent / "whole")
    assert facts == expected
    assert {path.name for path in into.iterdir()} == {"symbols", "vmlinux"}


def test_a_debug_package_without_the_kernel_is_refused(tmp_path: Path) -> None:
    package = Package({"usr/lib/debug/lib/modules/6.1/a.ko": debugged("a.c"), "usr/lib/debug/boot/vmlinux-6.2": b""})
    (tmp_path / "base").mkdir()
    with pytest.raises(EnvironmentFault) as caught:
        read_debug_package(cast("Sandbox", package), package=tmp_path / "a.deb", release="6.1", into=tmp_path / "base")
    assert caught.value.problem.code == "package-layout"


def test_stripped_modules_are_plain_files_by_their_names(tmp_path: Path, built: Path, secret: Path) -> None:
    def leaves(output: Path) -> None:
        (output / "a.ko").write_text("stripped")
        (output / "b.ko").symlink_to(secret)

    strip_modules(OutsideSandbox(leaves=leaves, runs=False).sandbox, inputs=built, into=tmp_path / "stripped")
    assert [path.name for path in (tmp_path / "stripped").iterdir()] == ["a.ko"]
    assert {path.name for path in tmp_path.iterdir()} == {"built", "secret", "stripped"}


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


def test_sizes_of_special_structures_are_read() -> None:
    sizes = struct_sizes(SIZES + "static_call_site\t8\t0\nlist_head\t16\t0\n")
    assert sizes["ALT_STRUCT_SIZE"] == 14
    assert sizes["STATIC_CALL_STRUCT_SIZE"] == 8
    assert sizes["PARA_STRUCT_SIZE"] == 0, "kernels from 6.8 on have none"


def test_a_missing_special_structure_is_named() -> None:
    with pytest.raises(EnvironmentFault, match="ORC_STRUCT_SIZE"):
        struct_sizes(SIZES.replace("orc_entry", "other"))


def no_sizes(output: Path) -> None:
    """Leave what the programs leave of a kernel without debug information."""
    good(output)
    (output / "sizes").write_text("")


def test_a_kernel_without_debug_information_and_without_a_record_is_refused_with_both_ways_out(built: Path) -> None:
    (built / "vmlinux").write_bytes(debugged())
    with pytest.raises(EnvironmentFault) as caught:
        read(built, OutsideSandbox(leaves=no_sizes))
    assert caught.value.problem.code == "debug-info"
    assert "CONFIG_DEBUG_INFO" in caught.value.problem.advice
    assert "--build" in caught.value.problem.advice


@needs_gcc
def test_a_kernel_without_debug_information_has_its_units_from_the_record_of_its_build(tmp_path: Path) -> None:
    tree, inputs = built_tree(tmp_path / "tree"), tmp_path / "inputs"

    def leaves(output: Path) -> None:
        no_sizes(output)
        (output / "vmlinux").write_bytes((tree / "vmlinux").read_bytes())

    for place in (inputs, tmp_path / "base"):
        place.mkdir()
    (inputs / "vmlinux").write_bytes((tree / "vmlinux").read_bytes())
    (inputs / "fat-fs.ko").write_bytes((tree / f"{MODULE}.ko").read_bytes())
    sandbox = OutsideSandbox(leaves=leaves, runs=False)
    facts = read_debug_info(
        sandbox.sandbox, inputs=inputs, vmlinux="vmlinux", into=tmp_path / "base", record=read_build(tree)
    )
    assert facts.compiled["fs/fat-fs/dir.c"] == ("fs/fat-fs/dir.c", {"fat_fs"})
    assert facts.compiled["init/main.c"] == ("init/main.c", {"vmlinux"})
    assert facts.struct_sizes == {}, "they are measured in the prepared tree"


@pytest.mark.parametrize("length", [120, 128])
def test_measured_sizes_must_fit_the_tables_of_the_kernel(tmp_path: Path, length: int) -> None:
    listing = tmp_path / "sizes.o"
    listing.write_text(SIZES)
    made = Made().section(".data", bytes(4096))
    made.symbol("__start___bug_table", ".data", value=0, kind=NOTYPE, bind=GLOBAL)
    made.symbol("__stop___bug_table", ".data", value=length, kind=NOTYPE, bind=GLOBAL)
    vmlinux = made.write(tmp_path / "vmlinux")
    helper = cast("Sandbox", SimpleNamespace(run=lambda *_, **__: run(["cat", listing])))
    if length % 12 == 0:
        assert measured_sizes(listing, helper, vmlinux)["BUG_STRUCT_SIZE"] == 12
    else:
        with pytest.raises(EnvironmentFault) as caught:
            measured_sizes(listing, helper, vmlinux)
        assert caught.value.problem.code == "struct-sizes"
