# SPDX-License-Identifier: GPL-2.0-or-later
"""Sealed directories: a few files with their digests beside them, so that damage is noticed before they are used.

A cache of files that a power cut may have torn must not be trusted by name alone: a file system may keep a name and
lose the content. A directory that fails its seal is made again; nobody has to find and remove it by hand.
"""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

from elivepatch.files.atomic import publish, set_aside
from elivepatch.files.digest import sha256_file

_SEAL = "seal.json"


def publish_sealed(staged: Path, place: Path) -> None:
    """Seal the flat directory `staged` and rename it to `place`, durably; raises OSError.

    A damaged directory at `place` is replaced. If `place` is whole, because another process was faster, it stays.
    """
    digests = {file.name: sha256_file(file) for file in sorted(staged.iterdir())}
    (staged / _SEAL).write_text(json.dumps(digests), encoding="ascii")
    if place.exists() and not is_whole(place):
        doomed = place.with_name(f".damaged-{secrets.token_hex(4)}")
        set_aside(place, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    try:
        publish(staged, place)
    except OSError:
        if not is_whole(place):
            raise


def is_whole(place: Path) -> bool:
    """Return whether `place` holds every file of its seal with the sealed content; raises nothing."""
    try:
        digests = json.loads((place / _SEAL).read_text(encoding="ascii"))
        return bool(digests) and all(sha256_file(place / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False
