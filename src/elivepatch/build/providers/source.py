# SPDX-License-Identifier: GPL-2.0-or-later
"""The provider `source`: kernels that the server builds once, from sources that its operator declared.

The file that the setting `sources` names is TOML. Each table [[source]] has the keys of class Declared: `releases`, a
pattern as the shell has it, for the releases that are made from it; `source` as `kernel add --source` takes it, in
which {version} stands for the numbers of the release and {series} for the first two; `base_patches`, files with the
patches that these kernels have, in order; `accept_unproved`.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.store import Base
from elivepatch.build.providers.provision import NotProvided
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel_request import KernelRequest

_VERSION = re.compile(r"([0-9]+\.[0-9]+)(?:\.[0-9]+)?")
_KEYS = {"releases": str, "source": str, "base_patches": list, "accept_unproved": bool}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A declared source. With `accept_unproved` a kernel counts as the host's although their build-ids differ."""

    releases: str
    source: str
    base_patches: tuple[Path, ...] = ()
    accept_unproved: bool = False

    def source_of(self, release: str) -> str:
        """Return the source of a release, as `kernel add --source` takes it."""
        found = _VERSION.match(release)
        version, series = (found[0], found[1]) if found else ("", "")
        return self.source.replace("{version}", version).replace("{series}", series)


def read_declared(file: Path) -> tuple[Declared, ...]:
    """Return the sources that a file declares; raises UsageError if it cannot be read or has another form."""
    try:
        with file.open("rb") as opened:
            tables = tomllib.load(opened).get("source", [])
        return tuple(_declared(table) for table in tables)
    except OSError as error:
        raise UsageError(
            "sources", f"{file} cannot be read: {error.strerror}.", advice="Correct the setting `sources`."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            "sources", f"{file} does not declare sources: {error}.", advice="docs/kernels.md has an example."
        ) from error


def declared_for(declared: Sequence[Declared], release: str) -> Declared | None:
    """Return the first source that is declared for a release, None if there is none."""
    return next((one for one in declared if fnmatch.fnmatchcase(release, one.releases)), None)


def _declared(table: dict[str, Any]) -> Declared:
    for key, value in table.items():
        if key not in _KEYS or not isinstance(value, _KEYS[key]):
            message = f"the key {key!r} is unknown or has a value of another type"
            raise ValueError(message)
    patches = tuple(Path(str(one)) for one in table.get("base_patches", ()))
    return Declared(**table | {"base_patches": patches})


class SourceProvider:
    """Builds a host's kernel from a declared source with the host's configuration."""

    name = "source"

    def __init__(self, maker: CustomMaker, declared: Sequence[Declared], work_dir: Path) -> None:
        self._maker = maker
        self._declared = declared
        self._work_dir = work_dir

    def provide(self, asked: KernelRequest) -> Base | NotProvided:
        """Make the base if a source is declared for the release and the host sent its configuration."""
        found = declared_for(self._declared, asked.release)
        if found is None:
            return NotProvided(
                why=f"No source is declared for {asked.release}.",
                advice="The server's operator declares its source, or adds the kernel (docs/kernels.md).",
            )
        if not asked.config:
            return NotProvided(
                why="The request has no configuration, and without it the kernel cannot be built.",
                advice="Ask from the host that runs the kernel; it needs /proc/config.gz or /boot/config-RELEASE.",
            )
        if asked.build_id and not found.accept_unproved:
            return NotProvided(
                why="A kernel that is built again has another build-id, and the declaration of the source does not "
                "accept that.",
                advice="The server's operator adds the files kept of the build (kernel add --vmlinux), or sets "
                "accept_unproved for this source.",
            )
        config = self._work_dir / "config"
        config.write_bytes(asked.config)
        return self._maker.add(
            CustomKernel(
                release=asked.release,
                source=found.source_of(asked.release),
                config=config,
                base_patches=found.base_patches,
                build_id=asked.build_id or None,
                accept_unproved=found.accept_unproved,
            )
        )
