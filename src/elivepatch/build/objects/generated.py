# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources and headers that a kernel's build generates, made once for each base and kept in the layout of the tree.

They are read, to find out who includes what. No object is compiled from them: make generates them again for each
compilation (objects/compile.py).
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from elivepatch.build.base.kbuild import make_arguments
from elivepatch.build.base.store import Base
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox
from elivepatch.build.sandbox.output import files_below, take_file
from elivepatch.files.atomic import publish_tree, set_aside
from elivepatch.kernel.compile_units import Unit
from elivepatch.kernel.includes import Includes, absent

_FILE_LIMIT_BYTES = 64 << 20
_TIMEOUT_S = 1800.0
_READ = (".c", ".h", ".in")


def generated_directory(base: Base) -> Path:
    """Return the place of a base's generated files; it may be missing."""
    return base.directory / "generated"


def make_generated(base: Base, sandbox: Sandbox, units: Collection[Unit]) -> tuple[str, ...]:
    """Generate the files that some objects are made from, and return their paths in the tree.

    The objects are compiled: many rules make a header for the object only, not for its preprocessed text. Of what make
    cannot compile nothing is kept.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".generated-", dir=base.directory))
    scratch.chmod(0o755)
    staged = scratch / "staged"
    staged.mkdir()
    os.chown(staged, BUILD_UID, BUILD_UID)
    try:
        names = _made(base, sandbox, units, scratch) if units else []
        for name in names:
            _directories(staged, Path(name).parent)
            take_file(scratch / "upper/changed", name, staged / name, limit_bytes=_FILE_LIMIT_BYTES)
        place = generated_directory(base)
        if place.exists():
            doomed = base.directory / f".generated-{secrets.token_hex(4)}"
            set_aside(place, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        publish_tree(staged, place)
        return tuple(names)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _made(base: Base, sandbox: Sandbox, units: Collection[Unit], scratch: Path) -> list[str]:
    upper = scratch / "upper"
    upper.mkdir()
    # The same flags as those of the tree's preparation; with others, make would prepare it again.
    make = [*make_arguments(base.cc, os.cpu_count() or 1), "-k", f"KCFLAGS={base.section_flags}"]
    sandbox.run([*make, *[unit.target for unit in units]], layers=[base.tree], upper=upper, timeout_s=_TIMEOUT_S)
    found = files_below(upper, "changed")
    return [name for name in found if name.endswith(_READ) and not (base.tree / name).exists()]


def _directories(staged: Path, below: Path) -> None:
    for parent in [*reversed(below.parents), below]:
        place = staged / parent
        if not place.exists():
            place.mkdir()
            os.chown(place, BUILD_UID, BUILD_UID)


def units_with_generated_files(
    units: Iterable[Unit], includes: Includes, files: Collection[str], tree: Path
) -> tuple[Unit, ...]:
    """Return objects for which make generates files: all that have a generated source, one for each unknown name.

    `includes` is the graph of the tree alone, `files` are all its files.
    """
    by_source = {unit.source: unit for unit in units if unit.source.endswith(".c")}
    found = [unit for source, unit in by_source.items() if not source.startswith(".") and not (tree / source).exists()]
    for name, includers in absent(includes, files).items():
        if "/" in name:
            continue  # A header of another architecture, or of user space.
        users = _sources(includers, includes)
        found += [by_source[user] for user in users if user in by_source][:1]
    return tuple(sorted(set(found), key=lambda unit: unit.source))


def _sources(includers: Iterable[str], includes: Includes) -> Iterator[str]:
    for includer in includers:
        yield includer
        if includer.endswith(".h"):
            yield from sorted(includes.users(includer))
