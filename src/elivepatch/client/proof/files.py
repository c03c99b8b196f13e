# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a livepatch: the module, and its proof beside it under the module's name with `.intoto.jsonl`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elivepatch.client.host.modules import MODULE_LIMIT
from elivepatch.model.errors import TrustError, UsageError
from elivepatch.trust.envelope import MAX_BYTES, SUFFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFiles:
    """The bytes of a module and of its proof; neither is verified."""

    module: bytes
    proof: bytes


def proof_beside(module: Path) -> Path:
    """Return the path of the proof of a module."""
    return module.with_name(f"{module.name}{SUFFIX}")


def read_files(module: Path, proof: Path | None) -> ModuleFiles:
    """Return a module and its proof, the one beside it if `proof` is None.

    Raises TrustError if there is none, UsageError if a file cannot be read or is too large.
    """
    content = read_bounded(module, MODULE_LIMIT, "module")
    place = proof or proof_beside(module)
    if proof is None and not place.exists():
        raise TrustError(
            "unsigned",
            f"{module} has no proof beside it: {place.name} does not exist.",
            advice="Copy the proof that the server delivered with the module too, or name it with --proof.",
        )
    return ModuleFiles(module=content, proof=read_bounded(place, MAX_BYTES, "proof"))


def read_bounded(file: Path, limit: int, what: str) -> bytes:
    """Return the content of a file; raises UsageError if it cannot be read or has more than `limit` bytes."""
    try:
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise UsageError(
            "file", f"{file} cannot be read as a {what}: {error.strerror}.", advice="Give an existing file."
        ) from error
    if len(content) > limit:
        raise UsageError("file", f"{file} is too large for a {what}.", advice="Give a file from the server.")
    return content
