# SPDX-License-Identifier: GPL-2.0-or-later
"""The source of a kernel is that which its packages name, with the patches of its %prep, or none."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from kernel_packages import image_files, make_deb, make_rpm

from elivepatch.build.packages.reader import Listing, PackageReader
from elivepatch.build.packages.source import FoundSource, find_source
from elivepatch.model.errors import UsageError

TREE = {"Kconfig": b"config", "Makefile": b"VERSION = 6\n", "kernel/fork.c": b"int fork;\n"}
DIFF = b"--- a/kernel/fork.c\n+++ b/kernel/fork.c\n@@ -1 +1 @@\n-int fork;\n+int patched;\n"
PREPARE = "%setup -q -n linux\ncp %{SOURCE1} .config\npatch -p1 < %{SOURCE2}\n"


def archive(files: dict[str, bytes], top: str = "linux") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(f"{top}/{name}")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return packed.getvalue()


SOURCES = {"linux.tar.gz": archive(TREE), "config": b"CONFIG_X86_64=y\n", "diff.patch": DIFF}


def found(reader: PackageReader, place: Path) -> FoundSource | None:
    place.mkdir(exist_ok=True)
    listing: Listing = reader.listing()
    kernels = [
        package for package in listing.packages if "image" in package.path or package.path.startswith("kernel-core")
    ]
    return find_source(reader, listing, [one for one in kernels if not one.is_source], place / "source")


def content(source: FoundSource | None) -> dict[str, bytes]:
    assert source is not None
    with tarfile.open(source.named) as tar:
        members = {member.name: tar.extractfile(member) for member in tar.getmembers() if member.isfile()}
        return {name.split("/", 1)[1]: file.read() for name, file in members.items() if file is not None}


def test_a_source_rpm_gives_the_tree_that_its_prep_makes(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    """As `make srcrpm-pkg` of the kernel makes it: an archive, a configuration, and a patch."""
    make_rpm(store, "kernel-core", image_files(), sources=SOURCES, prepare=PREPARE)
    source = found(reader, tmp_path)
    files = content(source)
    assert files["kernel/fork.c"] == b"int patched;\n"
    assert source is not None
    assert (source.package, source.built_in) == ("kernel-core-6.12.40-1.src.rpm", True)


def test_the_source_rpm_of_another_kernel_is_not_taken(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    make_rpm(store, "kernel-core", image_files(), sources=SOURCES, prepare=PREPARE)[1].unlink()
    make_rpm(store, "kernel-rt", {"usr/share/x": b"x"}, sources=SOURCES, prepare=PREPARE)
    assert found(reader, tmp_path) is None


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        ("%setup -q -n linux\nfalse\n", "a patch does not apply"),
        ("mkdir nothing\n", "no kernel in it"),
        ("%setup -q -n linux\ncp -a . ../second\n", "two trees"),
    ],
)
def test_a_source_rpm_that_leaves_no_kernel_is_refused(
    store: Path, reader: PackageReader, tmp_path: Path, prepare: str, why: str
) -> None:
    make_rpm(store, "kernel-core", image_files(), sources=SOURCES, prepare=prepare)
    with pytest.raises(UsageError) as caught:
        found(reader, tmp_path)
    assert caught.value.problem.code == "packages-source", why


def test_debian_s_source_package_of_the_same_version_is_the_source(
    store: Path, reader: PackageReader, tmp_path: Path
) -> None:
    make_deb(store, "linux-image", image_files())
    make_deb(store, "linux-source-6.12", {"usr/src/linux-source-6.12.tar.xz": b"older"}, version="6.12.39-1")
    assert found(reader, tmp_path / "a") is None, "of another version"
    make_deb(store, "linux-source-6.12", {"usr/src/linux-source-6.12.tar.xz": archive(TREE)})
    assert content(found(reader, tmp_path / "b")) == TREE


def test_a_dsc_of_the_same_version_is_the_source(store: Path, reader: PackageReader, tmp_path: Path) -> None:
    make_deb(store, "linux-image", image_files())
    (store / "linux_6.12.39-1.dsc").write_text("Format: 3.0 (quilt)\nVersion: 6.12.39-1\n")
    assert found(reader, tmp_path / "a") is None
    (store / "linux_6.12.40-1.dsc").write_text("Format: 3.0 (quilt)\nVersion: 6.12.40-1\n")
    source = found(reader, tmp_path / "b")
    assert source is not None
    assert source.named == str(store / "linux_6.12.40-1.dsc")
