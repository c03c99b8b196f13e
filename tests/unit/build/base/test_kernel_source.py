# SPDX-License-Identifier: GPL-2.0-or-later
"""Source packages of Debian and Ubuntu: of both formats, with the distribution's changes applied, and undamaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from outside import OutsideSandbox

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.kernel_source import fetch_source
from elivepatch.build.base.tree import TreeMaker
from elivepatch.model.errors import ElivepatchError, UsageError
from elivepatch.model.kernel import Release
from elivepatch.model.progress import silent

ORIGINAL, CHANGED = "int fork;\n", "int patched;\n"
DIFF = "--- linux/kernel/fork.c\n+++ linux-6.8/kernel/fork.c\n@@ -1 +1 @@\n-int fork;\n+int patched;\n"
BROKEN = DIFF.replace("-int fork;", "-int other;")


def tar_of(files: dict[str, str], top: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            header = tarfile.TarInfo(f"{top}{name}")
            header.size = len(text)
            tar.addfile(header, io.BytesIO(text.encode()))
    return packed.getvalue()


def describe(place: Path, **files: bytes) -> Path:
    """Write a source package whose files have these ends of names, and return its .dsc."""
    lines = ["Format: 1.0", "Version: 6.8.0-45.45", "Checksums-Sha256:"]
    for end, content in files.items():
        name = f"linux_6.8.0-45.45.{end.replace('_', '.')}"
        (place / name).write_bytes(content)
        lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}")
    (place / "linux.dsc").write_text("\n".join(lines) + "\n")
    return place / "linux.dsc"


def unpacked(place: Path, named: Path) -> str:
    fetched = place / "fetched"
    fetched.mkdir()
    source = fetch_source(str(named), cast("Archive", None), fetched, silent)
    sandbox = OutsideSandbox().sandbox
    release = Release("6.8.0-45-generic")
    tree = TreeMaker(
        tree=place / "tree", release=release, config=cast("object", None), cc="gcc", jobs=1,  # type: ignore[arg-type]
        sandbox=sandbox, patch_headers=place,
    )  # fmt: skip
    maker = CustomMaker(cast("Archive", None), cast("BaseContext", SimpleNamespace()))
    maker._source(source, CustomKernel(release=release, source=str(named), config=place), tree, fetched)
    return (place / "tree/kernel/fork.c").read_text()


ORIG = tar_of({"kernel/fork.c": ORIGINAL}, "linux/")


def test_the_one_diff_of_format_1_is_applied(tmp_path: Path) -> None:
    named = describe(tmp_path, orig_tar_gz=ORIG, diff_gz=gzip.compress(DIFF.encode()))
    assert unpacked(tmp_path, named) == CHANGED


def test_the_patches_of_format_3_are_applied(tmp_path: Path) -> None:
    packaging = tar_of({"series": "# first\nfork.patch\n", "fork.patch": DIFF}, "debian/patches/")
    assert unpacked(tmp_path, describe(tmp_path, orig_tar_gz=ORIG, debian_tar_gz=packaging)) == CHANGED


@pytest.mark.parametrize(
    "diff", [gzip.compress(BROKEN.encode()), gzip.compress(DIFF.encode())[:-10]], ids=["does not apply", "is cut"]
)
def test_a_diff_that_does_not_apply_or_is_cut_is_refused(tmp_path: Path, diff: bytes) -> None:
    with pytest.raises(ElivepatchError):
        unpacked(tmp_path, describe(tmp_path, orig_tar_gz=ORIG, diff_gz=diff))


def test_a_file_that_is_not_the_one_that_is_listed_is_refused(tmp_path: Path) -> None:
    named = describe(tmp_path, orig_tar_gz=ORIG, diff_gz=gzip.compress(DIFF.encode()))
    (tmp_path / "linux_6.8.0-45.45.diff.gz").write_bytes(gzip.compress(BROKEN.encode()))
    with pytest.raises(UsageError) as caught:
        unpacked(tmp_path, named)
    assert caught.value.problem.code == "source-damaged"


def test_a_package_without_the_distributions_changes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        unpacked(tmp_path, describe(tmp_path, orig_tar_gz=ORIG))
    assert caught.value.problem.code == "source-unknown"
