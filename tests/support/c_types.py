# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of small C sources as BTF, made by the compiler of the machine that runs the tests."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from elivepatch.kernel.elf import ElfFile
from elivepatch.process import run


@cache
def types_of(source: str) -> bytes:
    """Return the BTF that gcc makes of a C source."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "types.c").write_text(source)
        command = ["gcc", "-gbtf", "-w", "-c", str(place / "types.c"), "-o", str(place / "types.o")]
        run(command, timeout_s=60).check("Compiling the types")
        return ElfFile(place / "types.o").named(".BTF")
