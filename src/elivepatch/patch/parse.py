# SPDX-License-Identifier: GPL-2.0-or-later
"""Parser of source patches, which are bytes from a stranger."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.model.series import SERIES_LIMIT_BYTES, PatchSeries, SourcePatch

_BINARY = re.compile(rb"(?m)^(GIT binary patch|Binary files .* differ)\r?$")
_LINK_MODE = re.compile(r"(?m)^(?:new file mode|new mode|old mode|deleted file mode) (120000|160000)$")
_NAME = re.compile(r"[A-Za-z0-9_+,.@=~ -]{1,255}")
NOWHERE = "/dev/null"
"""Name of a missing side of a diff."""
# Files that generate others at build time: constants for assembly, a program for certificates, a table of opcodes.
# Three headers are read only by the sources that modpost writes for each module and for the table of exports.
_RUN_AT_BUILD = frozenset(
    {
        "kernel/bounds.c", "kernel/sched/rq-offsets.c", "certs/extract-cert.c", "arch/x86/lib/x86-opcode-map.txt",
        "arch/x86/boot/mkcpustr.c", "arch/x86/boot/compressed/mkpiggy.c", "arch/x86/entry/vdso/vdso2c.c",
        "arch/x86/entry/vdso/vdso2c.h", "include/linux/export-internal.h", "include/linux/build-salt.h",
        "include/linux/elfnote-lto.h",
    }
)  # fmt: skip
_PROGRAMS_OF_THE_BUILD = ("arch/x86/tools/", "arch/x86/boot/tools/")
_FILES_LIMIT = 4096
# Names of text files of the kernel tree that have no suffix. The last is the name of files in drivers/staging.
_DOCUMENTS = frozenset({"MAINTAINERS", "CREDITS", ".mailmap", "README", "TODO"})


class FileKind(enum.StrEnum):
    """Kind of a file in the kernel tree, as far as it matters to a livepatch."""

    SOURCE = "source"
    HEADER = "header"
    ASSEMBLY = "assembly"
    BUILD = "build"
    DOCUMENT = "document"
    TEST = "test"
    FOREIGN = "foreign"
    OTHER = "other"


NOT_OF_THE_KERNEL = frozenset({FileKind.DOCUMENT, FileKind.TEST, FileKind.FOREIGN})
"""Kinds of files that no part of an x86 kernel is made from: documentation, self-tests, other architectures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchedFile:
    """One file that a series changes; `path` is relative to the top of the kernel tree and safe to join to it."""

    path: str
    kind: FileKind
    added: bool
    removed: bool


def read_series(series: PatchSeries) -> tuple[TouchedFile, ...]:
    """Return the files that a series touches, each once, in order of first appearance.

    Raises BuildStopped with one of the `patch-...` codes if the series is not a text diff of files inside the tree.
    """
    if not series.patches:
        raise BuildStopped(problem("patch-empty", "The series holds no patch."))
    if sum(len(patch.content) for patch in series.patches) > SERIES_LIMIT_BYTES:
        raise BuildStopped(
            problem("patch-too-large", f"The series is larger than {SERIES_LIMIT_BYTES >> 20} MiB in all.")
        )
    touched: dict[str, TouchedFile] = {}
    for patch in series.patches:
        for file in _read(patch):
            earlier = touched.get(file.path)
            if earlier is None or (file.removed and not earlier.removed):
                touched[file.path] = file
        if len(touched) > _FILES_LIMIT:
            raise BuildStopped(problem("patch-too-large", f"The series touches more than {_FILES_LIMIT} files."))
    return tuple(touched.values())


def _read(patch: SourcePatch) -> list[TouchedFile]:
    if not patch.content.strip():
        raise BuildStopped(problem("patch-empty", f"{patch.name} is empty."))
    if b"\0" in patch.content or _BINARY.search(patch.content):
        raise BuildStopped(problem("patch-binary", f"{patch.name} contains binary data."))
    try:
        text = patch.content.decode()
    except UnicodeDecodeError as error:
        raise BuildStopped(
            problem("patch-encoding", f"{patch.name} is not UTF-8 text (byte {error.start}).")
        ) from error
    if found := _LINK_MODE.search(text):
        raise BuildStopped(
            problem("patch-path", f"{patch.name} makes a symbolic link or a submodule.", excerpt=found.group())
        )
    try:
        files = read_diff(text)
    except MALFORMED as error:
        raise BuildStopped(
            problem("patch-malformed", f"{patch.name} cannot be read as a diff: {str(error).strip()[:200]}.")
        ) from error
    if not any(len(file) or file.is_rename for file in files):
        raise BuildStopped(problem("patch-empty", f"{patch.name} holds no hunk."))
    return [one for file in files for one in _touched(patch, file.source_file, file.target_file)]


def read_diff(text: str) -> PatchSet:
    """Return the files of a diff with their hunks; raises the exceptions of unidiff if it is malformed."""
    # Mail turns line ends into CR LF; patch(1) removes the CR too, if the header lines have it.
    return PatchSet(text.replace("\r\n", "\n"))


MALFORMED = (UnidiffParseError, ValueError, IndexError, AttributeError)
"""Exceptions of `read_diff` for a malformed diff."""


def _touched(patch: SourcePatch, source: str, target: str) -> list[TouchedFile]:
    added, removed = source == NOWHERE, target == NOWHERE
    if added and removed:
        raise BuildStopped(problem("patch-malformed", f"{patch.name} has a diff without any file name."))
    old, new = (None if name == NOWHERE else _inside(patch, name) for name in (source, target))
    if old is not None and new is not None and old != new:
        # To the build, a rename is a deletion and an addition.
        return [
            TouchedFile(path=old, kind=kind_of(old), added=False, removed=True),
            TouchedFile(path=new, kind=kind_of(new), added=True, removed=False),
        ]
    path = new or old or ""
    return [TouchedFile(path=path, kind=kind_of(path), added=added, removed=removed)]


def is_inside(path: str) -> bool:
    """Return if a path, relative to the top of the kernel tree, cannot lead out of it."""
    return all(part not in {"", ".", ".."} and _NAME.fullmatch(part) for part in path.split("/"))


def _inside(patch: SourcePatch, name: str) -> str:
    """Return `name` without its first component, as `patch -p1` sees it; raises BuildStopped if it leaves the tree."""
    first, _, path = name.partition("/")
    if not first or not is_inside(path):
        raise BuildStopped(problem("patch-path", f"{patch.name} names a file outside the source tree: {name[:120]!r}."))
    return path


def kind_of(path: str) -> FileKind:
    """Return the kind of the file at `path`, relative to the kernel tree."""
    pure = PurePosixPath(path)
    top, name, suffix = pure.parts[0], pure.name, pure.suffix
    if top == "arch" and len(pure.parts) > 2 and pure.parts[1] != "x86":
        return FileKind.FOREIGN
    if path.startswith("tools/testing/"):
        return FileKind.TEST
    for_make = name.startswith(("Makefile", "Kconfig", "Kbuild"))
    if (top == "Documentation" and not for_make) or name in _DOCUMENTS:
        return FileKind.DOCUMENT
    if (
        top in {"scripts", "tools", "usr"}
        or path in _RUN_AT_BUILD
        or path.startswith(_PROGRAMS_OF_THE_BUILD)
        or for_make
        or name.startswith(("asm-offsets", "."))
        or suffix in {".mk", ".lds", ".sh", ".py", ".pl", ".awk"}
        or name.endswith((".lds.S", ".tbl"))
    ):
        return FileKind.BUILD
    if suffix in {".rst", ".txt", ".md", ".yaml"}:
        return FileKind.DOCUMENT
    return {".c": FileKind.SOURCE, ".h": FileKind.HEADER, ".S": FileKind.ASSEMBLY}.get(suffix, FileKind.OTHER)
