# SPDX-License-Identifier: GPL-2.0-or-later
"""Users of a header in a base: the files that include it, and the sources that name what a series changes in it.

The include graph is computed when the first series that changes a header needs it, and kept beside the base. Files that
make generates are part of it: what they include, who includes them, and what they are made from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from elivepatch.build.base.kbuild import SOURCE_TOPS
from elivepatch.build.base.makefiles import read_generators
from elivepatch.build.base.store import Base
from elivepatch.build.objects.generated import generated_directory, make_generated, units_with_generated_files
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox, writable_directory
from elivepatch.build.sandbox.output import source_text, take
from elivepatch.files.atomic import write_atomic
from elivepatch.files.lock import made_once
from elivepatch.kernel.includes import Includes, read_includes
from elivepatch.patch.header_names import changed_names, pieces, users_of
from elivepatch.patch.lines import forget
from elivepatch.patch.rewrite.edits import Source

_LISTING_LIMIT_BYTES = 256 << 20
_INCLUDE_LINE = (
    '^[[:space:]]*#[[:space:]]*(include|define[[:space:]]+[A-Za-z0-9_]+[[:space:]]+[<"][A-Za-z0-9_./+-]+[.]h[>"])'
)
# Programs of scripts/ read headers of the kernel to generate other files.
_INCLUDES = f"""
grep -rE --include='*.[chS]' '{_INCLUDE_LINE}' {SOURCE_TOPS} include scripts >/out/lines 2>/dev/null
find {SOURCE_TOPS} include -name '*.h' >/out/headers 2>/dev/null
find {SOURCE_TOPS} include scripts tools/lib -type f >/out/files 2>/dev/null
grep -r --include=Makefile --include=Kbuild '' {SOURCE_TOPS} scripts >/out/makefiles 2>/dev/null
exit 0
"""
# Some kernels lack some directories. xargs ends with 123 if a grep found nothing in its share of the files.
_SEARCH = f"""
{{ cat /in/files; find {SOURCE_TOPS} include -name '*.h' 2>/dev/null; }} | xargs -d '\\n' grep "$@" >/out/found
status=$?
[ $status -eq 123 ] || exit $status
"""
_LIBRARY = re.compile(r"\s*#\s*include\s*<[^/>]+>")
_IS_INCLUDE = re.compile(r"\s*#\s*include")
_GLUED = ("-hoE", "[A-Za-z0-9_]+[[:space:]]*##|##[[:space:]]*[A-Za-z0-9_]+")
_NAMING = ("-lwFf", "/in/names")


def includes_of(base: Base, sandbox: Sandbox) -> Includes:
    """Return the include graph of a base's source tree and of the files that make generates."""
    kept = base.directory / "graph.json"
    found = _kept_includes(kept, base)
    if found is None:
        with made_once(base.directory / ".graph.lock"):
            found = _kept_includes(kept, base)
            if found is None:
                found = _read_includes(base, sandbox)
                write_atomic(kept, json.dumps(asdict(found)).encode())
    return found


def _kept_includes(path: Path, base: Base) -> Includes | None:
    """Return the include graph in a file, None if it is missing or damaged, or if the generated files are missing."""
    if not generated_directory(base).is_dir():
        return None
    try:
        return Includes(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _read_includes(base: Base, sandbox: Sandbox) -> Includes:
    scratch = Path(tempfile.mkdtemp(prefix=".includes-", dir=base.directory))
    try:
        os.chown(scratch, BUILD_UID, BUILD_UID)
        sandbox.run(["sh", "-c", _INCLUDES], layers=[base.tree], output=scratch).check("Reading #include lines")
        lines, headers = _lines(scratch, "lines"), frozenset(_lines(scratch, "headers"))
        files = _lines(scratch, "files")
        # The makefile of the architecture is a part of the top one: it has no objects of its own.
        makefiles = [line for line in _lines(scratch, "makefiles") if not line.startswith("arch/x86/Makefile:")]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    generators = read_generators(makefiles, headers)
    lines = [line for line in lines if not _of_the_library(line, generators.programs)]
    alone = read_includes(lines, headers)
    units = units_with_generated_files(base.units.by_source.values(), alone, files, base.tree)
    generated = make_generated(base, sandbox, units)
    lines += [
        f"{name}:{line}"
        for name in generated
        for line in (source_text(generated_directory(base), name) or "").splitlines()
        if _IS_INCLUDE.match(line)
    ]
    return read_includes(
        lines, headers.union(generated), generators.made(generated), programs=generators.programs.keys()
    )


def _of_the_library(line: str, programs: Collection[str]) -> bool:
    """Return if a line of a program that the build runs includes a header of the C library, such as <string.h>."""
    file, _, include = line.partition(":")
    return (file in programs or file.startswith("scripts/")) and _LIBRARY.match(include) is not None


def _lines(directory: Path, name: str) -> list[str]:
    # Old sources hold Latin-1; an include line itself is ASCII.
    return take(directory, name, limit_bytes=_LISTING_LIMIT_BYTES).decode("latin-1").splitlines()


@dataclass(frozen=True, slots=True)
class NameUsers:
    """The names that a change of a header affects, and the sources that use them."""

    names: frozenset[str]
    sources: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderNames:
    """Finds names in sources of a base and in all its headers."""

    base: Base
    sandbox: Sandbox

    def users(self, header: str, layer: Path, sources: Collection[str]) -> NameUsers | None:
        """Return which of `sources` name what the patched header in `layer` changes; None if names cannot decide that.

        A name that the preprocessor joins from arguments alone (`a##b` of two parameters) is not found; a name of
        which a macro holds a fixed piece is.
        """
        tree, generated = self.base.tree, generated_directory(self.base)
        old, new = source_text(tree, header), source_text(layer, header)
        if old is None or new is None:
            return None
        names = changed_names(Source(path=header, old=old, new=forget(new)))
        if not names:
            return None
        glued = {re.sub(r"[#\s]", "", piece) for piece in self._found(_GLUED, sources, ())}

        includes = includes_of(self.base, self.sandbox)
        # A file that is generated from the header may use what changes by its value: capability_names.h does.
        remade = includes.remade(header).intersection(sources)

        def search(wanted: Collection[str]) -> Mapping[str, str] | None:
            parts = pieces(wanted, glued)
            if parts and self._found(_NAMING, sources, parts):
                return None
            found = self._found(_NAMING, sources, wanted)
            return {path: source_text(tree, path) or source_text(generated, path) or "" for path in found}

        users = users_of(names, search)
        return NameUsers(names, users | remade) if users is not None else None

    def _found(self, how: Sequence[str], sources: Collection[str], names: Collection[str]) -> list[str]:
        with tempfile.TemporaryDirectory(prefix=".names-", dir=self.base.directory) as place:
            inputs, output = Path(place) / "in", writable_directory(Path(place) / "out")
            Path(place).chmod(0o755)
            inputs.mkdir()
            (inputs / "files").write_text("".join(f"{one}\n" for one in sorted(sources)), encoding="latin-1")
            (inputs / "names").write_text("\n".join(sorted(names)), encoding="latin-1")
            done = self.sandbox.run(
                ["sh", "-c", _SEARCH, "sh", *how],
                layers=[self.base.tree, generated_directory(self.base)],
                inputs=inputs,
                output=output,
            )
            done.check("Searching the source for names")
            return _lines(output, "found")
