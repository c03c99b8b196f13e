# SPDX-License-Identifier: GPL-2.0-or-later
"""A custom base with only the fields that the choice of a builder reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elivepatch.build.base.store import Base
from elivepatch.model.kernel import BuildId, Digest, Release


def bare_base(directory: Path, release: str = "6.12.117-own", **changed: Any) -> Base:
    """Make a base in `directory`; `changed` replaces fields. The kernel has neither klp-build nor IBT by default."""
    (directory / "tree").mkdir(exist_ok=True)
    (directory / "tree/.config").write_text("CONFIG_LIVEPATCH=y\nCONFIG_DEBUG_INFO=y\n")
    facts: dict[str, Any] = {
        "kind": "custom",
        "ibt": False,
        "toolchain": "debian-13",
        "cc": "gcc-14",
        "packages": {},
        "version": release,
    }
    return Base(
        directory=directory, release=Release(release), build_id=BuildId("ab" * 20), config_digest=Digest("c" * 64),
        toolchain_digest=Digest("d" * 64), compiler="gcc", modversions=True, struct_sizes={},
        size_bytes=0, seconds=0.0, **(facts | changed),
    )  # fmt: skip
