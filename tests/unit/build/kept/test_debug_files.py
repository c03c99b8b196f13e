# SPDX-License-Identifier: GPL-2.0-or-later
"""Stripped kernels and modules beside their debug files: tied by their build-ids, and completed to one file."""

from __future__ import annotations

import gzip
import lzma
import struct
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from elf_maker import FUNC, Made
from hypothesis import given
from hypothesis import strategies as st
from outside import OutsideSandbox

from elivepatch.build.kept.code import add_code
from elivepatch.build.kept.debug_files import Parted, put_in_place
from elivepatch.build.kept.files import KeptBuild, copy_kept
from elivepatch.build.kept.image import kernel_of_image, payload_of
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Release
from elivepatch.process import run

RELEASE = Release("6.12.118-own")
OURS, THEIRS = "5a" * 20, "a5" * 20
CODE = bytes(range(64))


def note(build_id: str) -> bytes:
    return struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes.fromhex(build_id)


def elf(*, code: bool, debug: bool, build_id: str = OURS, release: str = RELEASE) -> Made:
    """Return a module or a kernel: whole, stripped of its debug information, or its debug file."""
    made = Made().section(".text", CODE, code=True) if code else Made()
    if not code:
        made.sections.append((".text", "NOBITS", 0x6, 0, b"", len(CODE)))
    made.section(".note.gnu.build-id", note(build_id), kind="NOTE")
    made.section(".modinfo", f"vermagic={release} SMP mod_unload \0".encode())
    if debug:
        made.section(".debug_info", b"information")
    made.symbol("open_file", ".text", value=16, size=8, kind=FUNC)
    return made


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "built/lib/modules" / RELEASE / "kernel").mkdir(parents=True)
    (tmp_path / "built/debug").mkdir()
    elf(code=True, debug=True).write(tmp_path / "built/vmlinux")
    return tmp_path / "built"


def module(built: Path, name: str) -> Path:
    return built / "lib/modules" / RELEASE / "kernel" / name


def placed(built: Path) -> Parted:
    return put_in_place(built, built.parent / "aside", RELEASE, cast("Sandbox", None))


def refusal(built: Path) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        placed(built)
    return caught.value.problem.code, caught.value.problem.message


@pytest.mark.parametrize("place", ["debug/a.ko.debug", "debug/usr/lib/kernel/a.ko.debug", "debug/a.ko", "beside"])
def test_a_debug_file_takes_the_place_of_its_module_which_is_kept(built: Path, place: str) -> None:
    shipped = elf(code=True, debug=False).write(module(built, "a.ko")).read_bytes()
    file = module(built, "a.ko.debug") if place == "beside" else built / place
    file.parent.mkdir(parents=True, exist_ok=True)
    debug = elf(code=False, debug=True).write(file).read_bytes()
    parted = placed(built)
    assert module(built, "a.ko").read_bytes() == debug
    assert (parted.modules / "kernel/a.ko").read_bytes() == shipped
    assert parted.code is None
    assert not (built / "debug").exists()


def test_a_module_with_its_debug_information_in_itself_stays(built: Path) -> None:
    whole = elf(code=True, debug=True).write(module(built, "a.ko")).read_bytes()
    elf(code=False, debug=True, build_id=THEIRS).write(built / "debug/a.ko.debug")
    parted = placed(built)
    assert module(built, "a.ko").read_bytes() == whole
    assert list(parted.modules.iterdir()) == []


def test_a_stripped_module_without_debug_information_takes_its_symbols_from_the_directory_of_its_build(
    built: Path,
) -> None:
    """INSTALL_MOD_STRIP takes away the names of the sources; the build-id ties the two files together."""
    whole = elf(code=True, debug=False)
    whole.file("a.c")
    elf(code=True, debug=False).write(module(built, "a.ko"))
    whole.write(built / "debug/a.ko")
    shipped = module(built, "a.ko").read_bytes()
    parted = placed(built)
    assert module(built, "a.ko").read_bytes() == whole.data()
    assert (parted.modules / "kernel/a.ko").read_bytes() == shipped


def test_a_debug_file_of_another_build_is_refused_by_name(built: Path) -> None:
    elf(code=True, debug=False).write(module(built, "a.ko"))
    elf(code=False, debug=True, build_id=THEIRS).write(built / "debug/a.ko.debug")
    code, message = refusal(built)
    assert code == "debug-file"
    assert all(word in message for word in ("a.ko.debug", OURS, THEIRS))


def test_of_two_debug_files_of_one_name_that_of_the_build_is_taken(built: Path) -> None:
    elf(code=True, debug=False).write(module(built, "a.ko"))
    for directory, build_id in (("1", THEIRS), ("2", OURS)):
        (built / "debug" / directory).mkdir()
        elf(code=False, debug=True, build_id=build_id).write(built / "debug" / directory / "a.ko.debug")
    placed(built)
    assert ElfFile(module(built, "a.ko")).build_id == OURS


def test_a_module_without_a_debug_file_stays_and_is_refused_later(built: Path) -> None:
    elf(code=True, debug=False).write(module(built, "a.ko"))
    assert list(placed(built).modules.iterdir()) == []


def test_a_module_of_another_kernel_is_refused_by_name(built: Path) -> None:
    elf(code=True, debug=True, release="6.12.117-own").write(module(built, "a.ko"))
    code, message = refusal(built)
    assert code == "module-release"
    assert "a.ko" in message
    assert "6.12.117-own" in message


def test_a_stripped_kernel_gives_its_code_to_its_debug_file(built: Path) -> None:
    stripped = elf(code=True, debug=False).write(built / "vmlinux").read_bytes()
    elf(code=False, debug=True).write(built / f"debug/vmlinux-{RELEASE}.debug")
    parted = placed(built)
    assert parted.code is not None
    assert parted.code.read_bytes() == stripped
    add_code(built / "vmlinux", parted.code)
    whole = ElfFile(built / "vmlinux")
    assert whole.named(".text") == CODE
    assert [symbol.name for symbol in whole.symbols if symbol.name] == ["open_file"]
    assert whole.named(".debug_info") == b"information"


def test_a_kernels_debug_file_of_another_build_is_refused_by_name(built: Path) -> None:
    elf(code=True, debug=False).write(built / "vmlinux")
    elf(code=False, debug=True, build_id=THEIRS).write(built / "debug/vmlinux.debug")
    assert refusal(built)[0] == "debug-file"


def test_a_debug_file_whose_sections_are_not_those_of_the_kernel_is_refused(tmp_path: Path) -> None:
    debug = elf(code=False, debug=True).write(tmp_path / "vmlinux.debug")
    stripped = Made().section(".text", CODE + b"more", code=True).write(tmp_path / "vmlinux")
    with pytest.raises(UsageError) as caught:
        add_code(debug, stripped)
    assert caught.value.problem.code == "debug-file"
    assert ".text" in caught.value.problem.message


def image(payload: bytes, *, setup_sectors: int = 2) -> bytes:
    head = bytearray((setup_sectors + 1) * 512)
    head[0x1F1], head[0x202:0x206] = setup_sectors, b"HdrS"
    head[0x248:0x250] = struct.pack("<II", 8, len(payload))
    return bytes(head) + b"unpacker" + payload + b"behind"


@pytest.mark.parametrize("way", ["gzip", "xz", "zstd"])
def test_the_code_of_a_debug_file_comes_from_the_image_for_booting(built: Path, way: str) -> None:
    stripped = elf(code=True, debug=False).data()
    size = struct.pack("<I", len(stripped))
    packed = {
        "gzip": lambda: gzip.compress(stripped),
        "xz": lambda: lzma.compress(stripped, check=lzma.CHECK_CRC32) + size,
        "zstd": lambda: run(["zstd", "-qc"], stdin=stripped).output + size,
    }[way]()
    (built / "bzImage").write_bytes(image(packed))
    elf(code=False, debug=True).write(built / "vmlinux")
    parted = put_in_place(built, built.parent / "aside", RELEASE, OutsideSandbox().sandbox)
    assert parted.code is not None
    assert parted.code.read_bytes() == stripped


def test_an_image_of_another_build_is_refused(built: Path) -> None:
    (built / "bzImage").write_bytes(image(gzip.compress(elf(code=True, debug=False, build_id=THEIRS).data())))
    elf(code=False, debug=True).write(built / "vmlinux")
    with pytest.raises(UsageError) as caught:
        put_in_place(built, built.parent / "aside", RELEASE, OutsideSandbox().sandbox)
    assert caught.value.problem.code == "debug-file"


@pytest.mark.parametrize("content", [b"", b"MZ" * 400, image(b"\x02\x21\x4c\x18lz4"), image(b"\x1f\x8b")[:1600]])
def test_an_image_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bzImage").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        kernel_of_image(tmp_path, "bzImage", tmp_path / "kernel", OutsideSandbox().sandbox)
    assert caught.value.problem.code == "image-format"


@given(st.binary(max_size=2048), st.integers(0, 2048), st.binary(max_size=16))
def test_no_image_makes_the_reader_crash(content: bytes, at: int, other: bytes) -> None:
    made = bytearray(image(content))
    made[at : at + len(other)] = other
    with suppress(UsageError):
        assert payload_of(bytes(made)) in bytes(made)


def test_only_debug_files_are_copied_and_no_link_is_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "debug/usr").mkdir(parents=True)
    for name in ("vmlinux", "bzImage", "Module.symvers", "debug/usr/a.ko.debug", "debug/vmlinux.debug", "debug/notes"):
        (kept / name).write_bytes(name.encode())
    (kept / "debug/b.ko.debug").symlink_to("/etc/shadow")
    (tmp_path / "built").mkdir()
    copy_kept(
        KeptBuild(vmlinux=kept / "vmlinux", vmlinuz=kept / "bzImage", symvers=kept / "Module.symvers", modules=None,
                  debug=kept / "debug"),
        tmp_path / "built", RELEASE,
    )  # fmt: skip
    copied = {str(path.relative_to(tmp_path / "built")) for path in (tmp_path / "built").rglob("*") if path.is_file()}
    assert copied == {"vmlinux", "bzImage", "Module.symvers", "debug/usr/a.ko.debug", "debug/vmlinux.debug"}
