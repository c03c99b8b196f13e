# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages are listed by their own words, and give only plain files that were asked for."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from kernel_packages import headers_files, image_files, make_deb, make_pacman, make_rpm
from pushing_host import RELEASE

from elivepatch.build.packages.reader import PackageReader
from elivepatch.build.sandbox.output import files_below
from elivepatch.files.room import RoomWatch
from elivepatch.model.errors import UsageError
from elivepatch.process import run

FILES = {f"boot/vmlinuz-{RELEASE}": b"MZ", f"boot/config-{RELEASE}": b"CONFIG_X86_64=y\n", "etc/other": b"x"}
IMAGE = f"boot/vmlinuz-{RELEASE}"


def refusal(reader: PackageReader, path: Path, *names: str, into: Path) -> str:
    with pytest.raises(UsageError) as caught:
        reader.unpack(path.name, names, into)
    return caught.value.problem.code


def plain(names: tuple[str, ...]) -> set[str]:
    return {name.removeprefix("./").lstrip("/") for name in names if not name.endswith("/")}


def test_each_kind_of_package_is_listed_and_unpacked(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    made = [
        make_deb(store, "linux-image", FILES),
        make_deb(store, "without-a-list", FILES, listed=False, way="gzip"),
        make_deb(store, "of-ubuntu", FILES, way="zstd"),
        make_rpm(store, "kernel", FILES)[0],
        make_pacman(store, "linux", FILES),
    ]
    (store / "README").write_text("not a package")
    listing = reader.listing()
    packages = {package.path: package for package in listing.packages if not package.is_source}
    assert packages.keys() == {path.name for path in made}
    assert (listing.others, listing.unreadable) == (("README",), ())
    for number, path in enumerate(made):
        assert FILES.keys() <= plain(packages[path.name].names), path
        reader.unpack(path.name, [IMAGE], tmp_path / str(number))
        assert files_below(tmp_path / str(number)) == [IMAGE], "nothing is unpacked that was not asked for"
        assert (tmp_path / str(number) / IMAGE).read_bytes() == b"MZ"


def test_a_deb_has_a_version_and_an_rpm_names_its_source(store: Path, reader: PackageReader) -> None:
    make_deb(store, "linux-image", FILES, version="6.12.40-2~bpo1")
    _, source = make_rpm(store, "kernel-core", FILES)
    packages = {package.path: package for package in reader.listing().packages}
    assert packages["linux-image_6.12.40-2~bpo1_amd64.deb"].version == "6.12.40-2~bpo1"
    assert packages["kernel-core-6.12.40-1.x86_64.rpm"].source == source.name
    assert packages[source.name].is_source
    assert packages[source.name].source == source.name


def test_a_file_that_an_rpm_only_names_is_not_in_its_list(store: Path, reader: PackageReader) -> None:
    """binrpm-pkg names /boot/vmlinuz-RELEASE, which is made when the package is installed."""
    make_rpm(store, "kernel", {f"lib/modules/{RELEASE}/vmlinuz": b"MZ"}, ghosts=[IMAGE])
    (package,) = (one for one in reader.listing().packages if not one.is_source)
    assert plain(package.names) == {f"lib/modules/{RELEASE}/vmlinuz"}


@pytest.mark.parametrize("kind", ["deb", "rpm", "pacman"])
def test_a_package_that_is_cut_off_is_refused(store: Path, reader: PackageReader, tmp_path: Path, kind: str) -> None:
    files = FILES | {IMAGE: os.urandom(200_000)}
    path = {
        "deb": lambda: make_deb(store, "linux-image", files),
        "rpm": lambda: make_rpm(store, "kernel", files)[0],
        "pacman": lambda: make_pacman(store, "linux", files),
    }[kind]()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    assert refusal(reader, path, IMAGE, into=tmp_path / "out") == "packages-damaged"


def test_a_changed_byte_of_an_rpm_is_noticed_by_its_own_digest(
    store: Path, reader: PackageReader, tmp_path: Path
) -> None:
    path, _ = make_rpm(store, "kernel", FILES | {IMAGE: b"\0" * 4000 + os.urandom(4000)})
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)
    assert refusal(reader, path, IMAGE, into=tmp_path / "out") == "packages-damaged"


@pytest.mark.parametrize("name", ["a.deb", "a.rpm", "a.pkg.tar.zst"])
def test_what_is_no_package_is_said_to_be_unreadable_and_hides_no_other(
    store: Path, reader: PackageReader, name: str
) -> None:
    (store / name).write_bytes(b"no package" * 100)
    make_deb(store, "linux-image", FILES)
    listing = reader.listing()
    assert listing.unreadable == (name,)
    assert [package.path for package in listing.packages] == ["linux-image_6.12.40-1_amd64.deb"]


def test_a_package_that_would_fill_the_disk_is_ended(
    store: Path, reader: PackageReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store / "bomb.pkg.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as packed:
        header = member(IMAGE)
        header.size = 256 << 20
        with Path("/dev/zero").open("rb") as zeros:
            packed.addfile(header, zeros)
    assert path.stat().st_size < 4 << 20, "a bomb is small"
    monkeypatch.setattr(RoomWatch, "exceeded", lambda *_, **__: True)
    assert refusal(reader, path, IMAGE, into=tmp_path / "out") == "packages-large"


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for header, content in members:
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.mode = kind, target, mode
    return header


def hostile(store: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = store / "hostile.pkg.tar"
    path.write_bytes(tar_of(*members))
    return path


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (member("../../boot/vmlinuz"), "../../boot/vmlinuz"),
        (member("boot/vmlinuz", tarfile.SYMTYPE, "/etc/passwd"), "boot/vmlinuz"),
        (member("boot/vmlinuz", tarfile.FIFOTYPE), "boot/vmlinuz"),
        (member("boot/vmlinuz", tarfile.LNKTYPE, "/etc/passwd"), "boot/vmlinuz"),
    ],
)
def test_links_pipes_and_names_outside_give_no_file(
    store: Path, reader: PackageReader, tmp_path: Path, header: tarfile.TarInfo, name: str
) -> None:
    path = hostile(store, (header, b""))
    before = {one for one in tmp_path.rglob("*") if "out" not in one.parts}
    with suppress(UsageError):
        reader.unpack(path.name, [name], tmp_path / "out")
    assert [one for one in files_below(tmp_path / "out") if one != ".names"] == []
    assert {one for one in tmp_path.rglob("*") if "out" not in one.parts} == before


def test_a_link_to_a_directory_outside_is_no_way_out(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    path = hostile(
        store, (member("boot", tarfile.SYMTYPE, str(outside)), b""), (member("boot/vmlinuz"), b"MZ")
    )  # fmt: skip
    reader.unpack(path.name, ["boot/vmlinuz"], tmp_path / "out")
    assert list(outside.iterdir()) == []


def test_a_directory_in_the_place_of_a_file_gives_nothing_that_was_asked_for(
    store: Path, reader: PackageReader, tmp_path: Path
) -> None:
    path = hostile(store, (member("boot/vmlinuz", tarfile.DIRTYPE), b""), (member("boot/vmlinuz/x"), b"MZ"))
    reader.unpack(path.name, ["boot/vmlinuz"], tmp_path / "out")
    assert "boot/vmlinuz" not in files_below(tmp_path / "out")


def test_links_in_the_directory_are_not_followed(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_deb(elsewhere, "linux-image", image_files())
    (store / "dir").symlink_to(elsewhere)
    (store / "a.deb").symlink_to(next(elsewhere.iterdir()))
    make_deb(store, "linux-headers", headers_files())
    assert [package.path for package in reader.listing().packages] == ["linux-headers_6.12.40-1_amd64.deb"]


def test_a_directory_that_is_missing_or_closed_is_named(store: Path, reader: PackageReader) -> None:
    missing = PackageReader(directory=store / "none", helper=reader.helper, tools=reader.tools)
    with pytest.raises(UsageError) as caught:
        missing.listing()
    assert caught.value.problem.code == "file-missing"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user for the sandbox")
def test_a_directory_that_the_sandbox_cannot_enter_is_said_with_the_way_to_open_it(tmp_path: Path, tools: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    reader = PackageReader(directory=closed, helper=run, tools=tools)  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        reader.listing()
    assert caught.value.problem.code == "packages-unreadable"
    assert f"chmod o+rx {closed}" in caught.value.problem.advice
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
