# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading Module.symvers: what a kernel exports, with checksums and namespaces (Documentation/kbuild/modules.rst)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elivepatch.model.errors import EnvironmentFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One exported symbol. `owner` is `vmlinux` or a module's path without `.ko`; `crc` is 0 without MODVERSIONS."""

    name: str
    crc: int
    owner: str
    namespace: str


def read_symvers(path: Path) -> Mapping[str, Export]:
    """Return the exports by name. Raises EnvironmentFault for a missing, truncated or garbled file."""
    exports: dict[str, Export] = {}
    try:
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            crc, name, owner, _kind, *namespace = line.split("\t")
            exports[name] = Export(name=name, crc=int(crc, 16), owner=owner, namespace="".join(namespace))
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            "symvers",
            f"The kernel's export table cannot be read: {error}.",
            advice="The base is damaged: remove it and add it again.",
        ) from error
    return exports
