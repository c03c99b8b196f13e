# SPDX-License-Identifier: GPL-2.0-or-later
"""Declarations: the toolchains that the server can make from the distribution's packages (data/toolchains.toml)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

from elivepatch.files.digest import sha256_json
from elivepatch.model.compiler import CompilerText
from elivepatch.model.kernel import Digest

_VENDOR = re.compile(r"\(Debian (?P<package>[^ ()]+)\) .*")
_CLANG_VENDOR = re.compile(r"Debian clang version (?P<upstream>[^ ()]+) \((?P<revision>[^ ()]+)\)")
_REBUILT = re.compile(r"\+b[0-9]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """Contents of a toolchain, as declared in data/toolchains.toml."""

    name: str
    suite: str
    compiler: str
    packages: tuple[str, ...]
    rust: bool
    unpack: tuple[dict[str, str], ...]

    @property
    def digest(self) -> Digest:
        """SHA-256 of the declaration."""
        return sha256_json(asdict(self))

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that its packages come from; those of a suite without updates are not in data/suites.toml."""
        return (self.suite, f"{self.suite}-updates", f"{self.suite}-security")

    def may_make(self, wanted: CompilerText) -> bool:
        """Return whether its compiler can be the wanted one in any version of its package."""
        return bool(_package_of(wanted)) and f"{wanted.family}-{wanted.number}.".startswith(f"{self.compiler}.")

    def makes(self, wanted: CompilerText, package_version: str) -> bool:
        """Return whether its compiler, of this version of its package, is the wanted one.

        Debian's gcc names the version of its source package, `gcc-12 (Debian 12.2.0-14) 12.2.0`; a package that was
        only built again has a suffix to it (`+b1`). Its clang names the whole version but for the epoch, `Debian clang
        version 19.1.7 (3+b1)`.
        """
        package = package_version.rpartition(":")[2]
        if wanted.family == "gcc":
            package = _REBUILT.sub("", package)
        return self.may_make(wanted) and _package_of(wanted) == package


def _package_of(wanted: CompilerText) -> str:
    """Return the version of the Debian package that a compiler names, empty if it is of another distribution."""
    if wanted.family == "gcc":
        vendor = _VENDOR.fullmatch(wanted.version)
        return vendor["package"] if vendor else ""
    vendor = _CLANG_VENDOR.fullmatch(wanted.version)
    return f"{vendor['upstream']}-{vendor['revision']}" if vendor else ""


@cache
def declarations() -> dict[str, Declaration]:
    """Return the declared toolchains, by name."""
    table = tomllib.loads((files("elivepatch.build") / "data/toolchains.toml").read_text(encoding="utf-8"))
    return {
        name: Declaration(
            name=name,
            suite=entry["suite"],
            compiler=entry["compiler"],
            packages=tuple(entry["packages"]),
            rust=entry.get("rust", False),
            unpack=tuple(entry.get("unpack", ())),
        )
        for name, entry in table.items()
    }
