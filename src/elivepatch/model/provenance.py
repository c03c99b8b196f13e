# SPDX-License-Identifier: GPL-2.0-or-later
"""Origin of a livepatch: the tools and the materials that made it, and the checks that it passed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from elivepatch.model.kernel import Digest

SOURCE_PATCH = "source patch"
CONFIGURATION = "configuration"
BASE = "base"
BASE_INPUT = "base input"
TOOLCHAIN = "toolchain"

MATERIALS: dict[str, str] = {
    SOURCE_PATCH: "one patch of the series: the SHA-256 of its bytes",
    CONFIGURATION: "the kernel's configuration: the SHA-256 of its bytes",
    BASE: "the base: the SHA-256 of its description, which names all of the following",
    BASE_INPUT: "a package, an archive or a base patch that the base was made from: the SHA-256 of its bytes",
    TOOLCHAIN: "a root file system with tools: the SHA-256 of the names, modes and bytes of all its files",
}
"""Kinds of materials, and what the digest of each is made of."""


class CheckEntry(NamedTuple):
    """A check: the kind of thing that it counts, and the fact that it shows about them."""

    counts: str
    shows: str


CHECKS: dict[str, CheckEntry] = {
    "sample": CheckEntry(
        "function",
        "in a sample of the base, the functions that its source makes are, byte for byte, those of its kernel",
    ),
    "fidelity": CheckEntry(
        "function", "rebuilt without the patch, each replaced function is, byte for byte, the one of the kernel"
    ),
    "layout": CheckEntry("object", "no structure has changed its layout in memory, and no enumerator its number"),
    "account": CheckEntry("object", "every difference to the original is in the livepatch or explained by a rule"),
    "functions": CheckEntry("object", "every function that differs from the original is in the livepatch"),
    "references": CheckEntry("object", "each symbol that the new code uses is the kernel's"),
    "entries": CheckEntry(
        "function", "the symbol position, the entry and the sealed ENDBR of each replaced function fit the kernel"
    ),
    "second-builder": CheckEntry("function", "another builder made the same livepatch"),
}
"""Checks of a build by name. A build that fails one makes no livepatch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """An input of a build. `kind` is one of `MATERIALS`."""

    kind: str
    name: str
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Origin of a livepatch.

    `version` is that of elivepatch, `builders` has the version of each builder that made the livepatch. `checks` has
    the number of things that each check looked at. `materials` are all but the series.
    """

    version: str
    builders: dict[str, int] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
    materials: tuple[Material, ...] = ()
