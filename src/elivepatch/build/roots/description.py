# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptions of toolchains: what is known about a root on disk, kept beside it as toolchain.json."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elivepatch.build.roots.declared import declarations
from elivepatch.model.compiler import parse_compiler
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.kernel import Digest

_NEW_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,59}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~:-]{0,79}")
_VENDOR_VERSION = re.compile(r"\([^ ()]+ ([A-Za-z0-9][A-Za-z0-9.+~-]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A toolchain on disk.

    `compiler` is the command of its compiler, `says` the first line of that compiler's `--version` and `comment` the
    text that it writes to the .comment section of every object. `rust` is true if it has what CONFIG_RUST needs.
    `declared` is the digest of its declaration, empty if an operator brought the root.
    """

    name: str
    root: Path
    digest: Digest
    compiler: str
    comment: str
    size_bytes: int
    seconds: float
    says: str
    rust: bool
    declared: str

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self) | {"root": str(self.root)}

    @property
    def version(self) -> str:
        """The compiler's vendor and version as a kernel's configuration spells it, `(Debian 12.2.0-14) 12.2.0`."""
        parsed = parse_compiler(self.says)
        return parsed.version if parsed is not None else self.says

    @property
    def current(self) -> bool:
        """True if new bases may use it: it was brought, or made from what is declared now."""
        declaration = declarations().get(self.name.partition("@")[0])
        return not self.declared or (declaration is not None and self.declared == declaration.digest)

    @property
    def name_when_older(self) -> str:
        """The name that it gets when a toolchain from a newer declaration takes its place."""
        vendor = _VENDOR_VERSION.match(self.version)
        return f"{self.name.partition('@')[0]}@{vendor[1] if vendor else '0'}-{self.digest[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A toolchain whose root is being made; `started` is a time on the monotonic clock."""

    name: str
    compiler: str
    rust: bool
    declared: str
    started: float


def read_description(directory: Path, name: str) -> Toolchain | None:
    """Return the toolchain `name` below a directory, None if there is none.

    Raises EnvironmentFault if its description is damaged.
    """
    try:
        data = json.loads((directory / name / "toolchain.json").read_text(encoding="utf-8"))
        if "says" not in data:
            # Made before this was written down. Debian's gcc has one text for its own name in both places.
            declaration = declarations().get(name)
            data["says"] = f"{data['compiler']} {data['comment'].removeprefix('GCC: ')}"
            data["rust"] = declaration.rust if declaration is not None else False
        return Toolchain(**(data | {"name": name, "root": directory / name / "root", "digest": Digest(data["digest"])}))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EnvironmentFault(
            "toolchain-damaged",
            f"The description of toolchain {name} cannot be read.",
            advice=f"elivepatch-server toolchain remove {name}, then toolchain add {name}.",
        ) from error


def is_name(name: str) -> bool:
    """Return whether a text can be the name of a toolchain, `NAME` or `NAME@VERSION`; it never leads elsewhere."""
    first, at, version = name.partition("@")
    return _NEW_NAME.fullmatch(first) is not None and (not at or _VERSION.fullmatch(version) is not None)


def require_new_name(name: str) -> None:
    """Raise UsageError if a root that is brought cannot have this name."""
    if name in declarations():
        raise UsageError(
            "toolchain-name",
            f"{name} is the name of a declared toolchain.",
            advice="Choose another name for a root of your own.",
        )
    if _NEW_NAME.fullmatch(name) is None:
        raise UsageError(
            "toolchain-name",
            f"{name[:60]!r} cannot be the name of a toolchain.",
            advice="Use at most 60 small letters, digits and the signs . + _ -, with a letter or a digit first.",
        )
