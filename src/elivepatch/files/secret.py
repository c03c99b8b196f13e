# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that hold a secret: refused if every user of the machine can read them."""

from __future__ import annotations

import stat
from pathlib import Path

from elivepatch.model.errors import UsageError

_OTHERS = stat.S_IROTH | stat.S_IWOTH


def require_private(file: Path, secret: str) -> None:
    """Raise UsageError with the code `secret-readable` if others than owner and group can read or change `file`.

    `secret` names what the file holds. A missing file is no fault here: its reader names it. A pipe or device, such as
    /dev/stdin, is no place where a secret is kept.
    """
    try:
        found = file.stat()
    except OSError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_mode & _OTHERS:
        raise UsageError(
            "secret-readable",
            f"{file} holds {secret}, and every user of this machine can read or change it.",
            advice=f"If nobody else had access, `chmod 600 {file}`; otherwise replace the secret first.",
        )
