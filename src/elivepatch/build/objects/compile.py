# SPDX-License-Identifier: GPL-2.0-or-later
"""Compilation of single objects of a prepared tree, in the sandbox, at one fixed path.

An object is compiled three times: plainly, as the shipped kernel was (for the comparison with it); with a section for
each function and datum (for create-diff-object); and patched. make runs once for each object. The command that make
saves compiles the rest: each start of make would take half a second.

Some objects are made from files that make makes first (security/selinux/flask.h, lib/crc32table.h, *.asn1.c). Those
files are not in the tree and are not kept: make runs before each compilation of such an object, so that a series which
changes what a file is made from changes the file too.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.base.kbuild import make_arguments, without_sections
from elivepatch.build.base.store import Base
from elivepatch.build.objects.messages import error_lines
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox, writable_directory
from elivepatch.build.sandbox.output import files_below, made_by_series, take, take_file
from elivepatch.files.atomic import write_atomic
from elivepatch.files.digest import sha256
from elivepatch.files.lock import made_once
from elivepatch.files.sealed import is_whole, publish_sealed
from elivepatch.kernel.compile_units import Unit
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, EnvironmentFault
from elivepatch.model.kernel import VMLINUX
from elivepatch.process import Cancellation, Completed

_SAVED = re.compile(r"(?m)^(?:saved)?cmd_\S+ := (.*)$")
_COMPILING = re.compile(r" -c -o \S+ (?=\S+ *(?:;|$))")
_MODULE_NAME = re.compile(r""" -DKBUILD_MODNAME='"(\w+)"' """)
_COMPILE_TIMEOUT_S = 300
_OBJECT_LIMIT_BYTES = 256 << 20
_COMMAND_LIMIT_BYTES = 16 << 20
# Part of each original's name: raised when the files of an original, or what is known of them, change.
_LAYOUT = 3
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KEEP_COMMAND = 'cp -- "${T%/*}/.${T##*/}.cmd" /out/saved'
# kbuild lists this directory twice, below arch/x86 and by itself (ARCH_LIB). For a single object it enters both: first
# without the rules of the directory's Makefile, by which make makes a source of inat.o, and then with them.
_TWICE_ENTERED = "arch/x86/lib/"


@dataclass(frozen=True, slots=True)
class Original:
    """An unpatched object in the base's cache: `sectioned.o` and the saved command, `plain.o` in a directory beside.

    Both directories are sealed (files/sealed.py): one that a power cut has damaged is made again.
    """

    directory: Path

    @classmethod
    def of(cls, base: Base, target: str, tenant: str = "") -> Original:
        """Return the place of the object `target` in the cache of `base`; it may be empty.

        Each tenant has a cache of its own: the time of a build shows whether an object was there, and so what its
        user has worked on.
        """
        named = f"{_LAYOUT} {target} {tenant}" if tenant else f"{_LAYOUT} {target}"
        return cls(base.directory / "originals" / sha256(named.encode())[:32])

    @property
    def sectioned(self) -> Path:
        """The object compiled with a section for each function and datum."""
        return self.directory / "sectioned.o"

    @property
    def plain(self) -> Path:
        """The object compiled as the shipped kernel was."""
        return self.plain_directory / "plain.o"

    @property
    def plain_directory(self) -> Path:
        """The directory of `plain`, made later than the other one: not every job needs it."""
        return self.directory.with_name(f"{self.directory.name}-plain")

    @property
    def command(self) -> str:
        """The shell command that make used for `sectioned`, objtool included."""
        return (self.directory / "command").read_text(encoding="utf-8")

    @property
    def generated(self) -> tuple[str, ...]:
        """The files that make made before the object and that the base's tree lacks, or has with other content."""
        try:
            return tuple((self.directory / "generated").read_text(encoding="utf-8").splitlines())
        except FileNotFoundError:
            return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """Compiles objects of one base. `patch_headers` is the directory of kpatch's helper headers.

    `tenant` is the one whose cache of unpatched objects is used.
    """

    base: Base
    sandbox: Sandbox
    patch_headers: Path
    cancellation: Cancellation | None = None
    tenant: str = ""

    def original(self, unit: Unit) -> Original:
        """Return the unpatched object, compiled now if no job has needed it before or if the cached one is damaged."""
        cached = Original.of(self.base, unit.target, self.tenant)
        if is_whole(cached.directory):
            return cached
        with made_once(cached.directory.with_name(f".{cached.directory.name}.lock")):
            if is_whole(cached.directory):
                return cached
            scratch = self._scratch()
            output, upper = writable_directory(scratch / "out"), scratch / "upper"
            upper.mkdir()
            try:
                # A unit's target comes from the shipped kernel's debug information, never from a patch.
                script = f'{_making(unit)} && cp -- "$T" /out/sectioned.o && {_KEEP_COMMAND}'
                done = self._run(["sh", "-c", script, "sh", *self._make(unit)], (), output, unit, upper=upper)
                done.check(f"Compiling the unpatched {unit.target}")
                saved = take(output, "saved", limit_bytes=_COMMAND_LIMIT_BYTES).decode(errors="replace")
                command = saved_command(saved)
                names = generated_files(files_below(upper, "changed"), unit.target)
                with _staged(cached.directory) as staged:
                    take_file(output, "sectioned.o", staged / "sectioned.o", limit_bytes=_OBJECT_LIMIT_BYTES)
                    (staged / "command").write_text(command, encoding="utf-8")
                    (staged / "generated").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return cached

    def plain(self, unit: Unit, original: Original) -> Path:
        """Return the object compiled as the shipped kernel was."""
        if is_whole(original.plain_directory):
            return original.plain
        scratch = self._scratch()
        try:
            self._saved(unit, original, without_sections(original.command), (), scratch).check(
                f"Compiling the unpatched {unit.target}"
            )
            with _staged(original.plain_directory) as staged:
                take_file(scratch, "object.o", staged / "plain.o", limit_bytes=_OBJECT_LIMIT_BYTES)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return original.plain

    def reads_the_same(self, unit: Unit, original: Original, layer: Path) -> bool:
        """Return if the compiler reads the same text with the patched sources in `layer` as without.

        False also if that cannot be found out; the compilation then shows why.
        """
        command = preprocessing(original.command)
        if command is None:
            return False
        kept = original.directory / "text"
        digest = _kept_digest(kept)
        if digest is None:
            digest = self._text(unit, original, command, ())
            if digest is None:
                return False
            write_atomic(kept, digest.encode())
        return self._text(unit, original, command, (layer,)) == digest

    def _text(self, unit: Unit, original: Original, command: str, layers: Sequence[Path]) -> str | None:
        scratch = self._scratch()
        try:
            done = self._after_make(f"{command} >/out/text", layers, scratch, unit, original)
            if not done.ok:
                return None
            with made_by_series(f"The text of {unit.source}"):
                return sha256(take(scratch, "text", limit_bytes=_OBJECT_LIMIT_BYTES))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def patched(self, unit: Unit, original: Original, layer: Path, directory: Path) -> Path:
        """Compile the object with the patched sources in `layer` over the tree; return it as a file in `directory`.

        Raises BuildStopped with code `compile-error` if the source does not compile.
        """
        output = writable_directory(directory / "compiled")
        done = None if original.generated else self._saved(unit, original, original.command, (layer,), output)
        if done is None or not (done.ok or done.timed_out):
            # Without a file that only make makes, the saved command may fail where the series is right. make decides:
            # it compiled the same source without the series, so that what it cannot compile now is the series' fault.
            shutil.rmtree(output)
            output = writable_directory(output)
            script = f'{_making(unit)} && cp -- "$T" /out/object.o'
            done = self._run(["sh", "-c", script, "sh", *self._make(unit)], (layer,), output, unit)
        require_compiled(done, unit.source, f"{unit.source} does not compile with the series.")
        return _taken(output, directory / "patched.o", unit.source)

    def added(self, source: str, layer: Path, directory: Path) -> tuple[Path, str]:
        """Compile a source that the series adds; return the object, a file in `directory`, and its parent.

        Raises BuildStopped with the code `compile-error`, also if no rule of the patched tree builds it.
        """
        unit = Unit(source, f"{source.removesuffix('.c')}.o", ())
        output = writable_directory(directory / "compiled")
        script = f'{_making(unit)} && objcopy --strip-debug "$T" /out/object.o && {_KEEP_COMMAND}'
        done = self._run(["sh", "-c", script, "sh", *self._make(unit)], (layer,), output, unit)
        require_compiled(done, source, f"The new {source} does not compile.")
        saved = take(output, "saved", limit_bytes=_COMMAND_LIMIT_BYTES).decode(errors="replace")
        made = _taken(output, directory / "added.o", source)
        return made, parent_of(saved_command(saved))

    def _make(self, unit: Unit) -> list[str]:
        going_on = ["-k"] if unit.target.startswith(_TWICE_ENTERED) else []
        return [*make_arguments(self.base.cc, 1), *going_on, f"KCFLAGS={self.base.section_flags}", unit.target]

    def _saved(self, unit: Unit, original: Original, command: str, layers: Sequence[Path], output: Path) -> Completed:
        return self._after_make(f'{command} && cp -- "$T" /out/object.o', layers, output, unit, original)

    def _after_make(
        self, script: str, layers: Sequence[Path], output: Path, unit: Unit, original: Original
    ) -> Completed:
        """Run a script in the tree, after make if the object is made from files that make makes.

        A saved command may be several commands, each of which must succeed, as make has it.
        """
        if original.generated:
            script = f"{_making(unit)} >/dev/null && {{ {script}; }}"
        return self._run(["sh", "-c", f"set -e; {script}", "sh", *self._make(unit)], layers, output, unit)

    def _run(
        self, argv: list[str], layers: Sequence[Path], output: Path, unit: Unit, upper: Path | None = None
    ) -> Completed:
        return self.sandbox.run(
            argv,
            layers=[self.base.tree, *layers],
            upper=upper,
            output=output,
            tools=self.patch_headers,
            env={"T": unit.target},
            timeout_s=_COMPILE_TIMEOUT_S,
            cancellation=self.cancellation,
        )

    def _scratch(self) -> Path:
        originals = self.base.directory / "originals"
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=originals))
        os.chown(scratch, BUILD_UID, BUILD_UID)
        return scratch


def _making(unit: Unit) -> str:
    """Return the shell command that runs make and succeeds if it made the object."""
    # make deletes an object that it failed to make (.DELETE_ON_ERROR), so one that is there was made.
    return '{ "$@" || [ -f "$T" ]; }' if unit.target.startswith(_TWICE_ENTERED) else '"$@"'


@contextmanager
def _staged(place: Path) -> Iterator[Path]:
    """Yield an empty directory; at the end it becomes `place`, sealed and durable."""
    staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=place.parent))
    try:
        staged.chmod(0o755)
        yield staged
        publish_sealed(staged, place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _taken(output: Path, into: Path, source: str) -> Path:
    with made_by_series(f"The object of {source}"):
        return take_file(output, "object.o", into, limit_bytes=_OBJECT_LIMIT_BYTES)


def _kept_digest(path: Path) -> str | None:
    """Return the digest in a file, None if the file is missing or damaged."""
    try:
        text = path.read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if _DIGEST.fullmatch(text) else None


def saved_command(text: str) -> str:
    """Return the compiler's command line from kbuild's `.cmd` file; raises EnvironmentFault if the file has none."""
    found = _SAVED.search(text)
    if found is None:
        raise EnvironmentFault(
            "saved-command",
            "make saved no command for an object.",
            advice="This kernel's build system is not supported yet; report its version.",
        )
    # make-cmd of scripts/Kbuild.include has escaped these characters.
    return found[1].replace("$(pound)", "#").replace("$$", "$")


def preprocessing(command: str) -> str | None:
    """Return the command that only preprocesses what a saved command compiles, None if that is not a command of gcc.

    Line markers are left out of the text; a line number that the code itself uses (`__LINE__`) stays in it.
    """
    compiling = command.partition(";")[0]
    text, count = _COMPILING.subn(" -E -P ", compiling)
    return text if count == 1 else None


def generated_files(made: Iterable[str], target: str) -> tuple[str, ...]:
    """Return those of the files that make wrote beside the object `target` from which an object can be made, sorted.

    `made` are paths in the tree. The names of make's own records start with a dot (`.eventfd.o.cmd`).
    """
    place = posixpath.normpath(target)
    ours = {place, f"{place}.d"}
    names = {name for name in made if name not in ours and not posixpath.basename(name).startswith(".")}
    return tuple(sorted(names))


def parent_of(command: str) -> str:
    """Return the parent of an object, `vmlinux` or a module, from kbuild's options for its compiler (Makefile.lib)."""
    name = _MODULE_NAME.search(command)
    return name[1] if " -DMODULE " in command and name is not None else VMLINUX


def require_compiled(done: Completed, source: str, refusal: str) -> None:
    """Raise BuildStopped if the compiler failed on `source`; `refusal` is the message if the patch is at fault."""
    if done.timed_out:
        raise BuildStopped(problem("out-of-time", f"Compiling {source} took too long.", excerpt=done.tail()))
    if not done.ok:
        excerpt = error_lines(done.log.decode(errors="replace")) or done.tail()
        raise BuildStopped(problem("compile-error", refusal, excerpt=excerpt))
