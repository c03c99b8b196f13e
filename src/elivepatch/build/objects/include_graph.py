# SPDX-License-Identifier: GPL-2.0-or-later
"""The include graph of a base, computed when the first series that changes a header asks for it, then kept."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from elivepatch.build.base.make import SOURCE_TOPS
from elivepatch.build.base.store import Base
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox
from elivepatch.kernel.includes import Includes, read_includes

_SCRIPT = f"""
grep -rE --include='*.[chS]' '^[[:space:]]*#[[:space:]]*include' {SOURCE_TOPS} include >/out/lines 2>/dev/null
find {SOURCE_TOPS} include -name '*.h' >/out/headers 2>/dev/null
exit 0
"""


def includes_of(base: Base, sandbox: Sandbox) -> Includes:
    """Return the include graph of a base's source tree."""
    kept = base.directory / "includes.json"
    if not kept.exists():
        scratch = Path(tempfile.mkdtemp(prefix=".includes-", dir=base.directory))
        try:
            os.chown(scratch, BUILD_UID, BUILD_UID)
            sandbox.run(["sh", "-c", _SCRIPT], layers=[base.tree], output=scratch).check("Reading #include lines")
            # Old sources hold Latin-1; an include line itself is ASCII.
            lines = (scratch / "lines").read_text(encoding="latin-1").splitlines()
            found = read_includes(lines, frozenset((scratch / "headers").read_text().splitlines()))
            (scratch / "includes.json").write_text(json.dumps(asdict(found)))
            os.chown(scratch / "includes.json", 0, 0)
            (scratch / "includes.json").rename(kept)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Includes(**json.loads(kept.read_text(encoding="utf-8")))
