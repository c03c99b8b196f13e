# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects of a kernel, compiled many at once in the ways that a build does, and compared with the shipped kernel.

Each object is compiled twice: by make, with a section for each function and datum, and by the command that make saved.
Both must be the same bytes. Each function is compared with the function that the shipped kernel holds. If one differs,
the object is compiled a third time without the flags for sections, as the kernel was, and that counts: the assembler
shortens jumps between functions of one section. Debug information is left out: it changes no code, and takes a fifth of
the time.

Many objects share one start of make and one sandbox, because a start of make takes longer than most compilations. An
object whose saved command fails in the pristine tree is then compiled as a build does it (Compiler), which runs make
first where make makes other files for an object.

A sample (`rows_as_shipped`) is cheaper: make compiles each object once, as the kernel was, and only the objects with
the most kinds of sections, which show the most of what make does, are compiled again by their saved commands.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elivepatch.build.base.kbuild import make_arguments, without_sections
from elivepatch.build.base.store import Base
from elivepatch.build.checks.fidelity import Located, Match, compare_functions, locate
from elivepatch.build.objects.compile import Compiler, saved_command
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take, take_file
from elivepatch.files.digest import sha256_file
from elivepatch.kernel.compile_units import Unit
from elivepatch.kernel.elf import BIND_WEAK, TYPE_FUNC, ElfFile, Symbol
from elivepatch.kernel.symbols import Block, LinkedSymbols
from elivepatch.model.errors import BuildStopped, ElivepatchError

_LIMIT_BYTES = 256 << 20
_TIMEOUT_S = 3600
_MAKE = """
"$@" >/out/log 2>&1
while read -r number target; do
    cp -- "$target" "/out/$number.o" 2>/dev/null && cp -- "${target%/*}/.${target##*/}.cmd" "/out/$number.saved"
done </in/targets
exit 0
"""
_COMPILE = """
while read -r number target; do
    rm -f -- "$target"
    sh -e "/in/$number.sh" >"/out/$number.log" 2>&1 && cp -- "$target" "/out/$number.o"
    rm -f -- "$target"
done </in/targets
exit 0
"""
_NO_DEBUG = "-g0"
_COMMANDS = 2


@dataclass(frozen=True, slots=True)
class Places:
    """Directories of one batch: outputs of make, of the saved commands, and of those without the flags for sections.

    `taken` is for the objects that were taken over from these, as files of ours.
    """

    made: Path
    saved: Path
    plain: Path
    taken: Path

    def object(self, output: Path, number: int) -> Path | None:
        """Return an object from one of the outputs, None if it was not made. A link in its place is refused."""
        kept = self.taken / f"{output.name}-{number}.o"
        name = f"{number}.o"
        if not kept.exists():
            if not os.path.lexists(output / name):
                return None
            take_file(output, name, kept, limit_bytes=_LIMIT_BYTES)
        return kept


@dataclass(frozen=True, slots=True)
class ObjectBatches:
    """Batches of objects of one kernel; `scratch` is a directory that the sandbox's user can reach."""

    base: Base
    sandbox: Sandbox
    compiler: Compiler
    scratch: Path

    def rows(self, units: Sequence[Unit]) -> dict[str, dict[str, Any]]:
        """Compile and compare some objects; return a row for each, by its source."""
        with tempfile.TemporaryDirectory(prefix="batch-", dir=self.scratch) as directory:
            place = Path(directory)
            place.chmod(0o755)
            places = _places(place)
            self._make(units, self.base.section_flags, place / "make-in", places.made)
            commands = {number: command for number in range(len(units)) if (command := _command(places.made, number))}
            self._compile(units, commands, place / "saved-in", places.saved)
            found = {number: self._row(unit, number, places) for number, unit in enumerate(units)}
            again = {
                number: without_sections(commands[number])
                for number, row in found.items()
                if row["way"] == "saved" and row["identical"] < row["functions"]
            }
            if again:
                self._compile(units, again, place / "plain-in", places.plain)
            for number in again:
                # Without a word of the first comparison: the object may be found now.
                kept = {key: found[number][key] for key in ("parent", "way", "same")}
                found[number] = kept | self._plainly(units[number], number, places)
            return {unit.source: found[number] for number, unit in enumerate(units)}

    def rows_as_shipped(self, units: Sequence[Unit]) -> dict[str, dict[str, Any]]:
        """Compile some objects as the kernel was, and compare them; return a row for each, by its source.

        Rows say if make and the saved command make the `same` for `_COMMANDS` of them.
        """
        with tempfile.TemporaryDirectory(prefix="batch-", dir=self.scratch) as directory:
            place = Path(directory)
            place.chmod(0o755)
            places = _places(place)
            self._make(units, without_sections(f"{self.base.section_flags} "), place / "make-in", places.made)
            made = {number: path for number in range(len(units)) if (path := places.object(places.made, number))}
            rich = sorted(made, key=lambda number: (-len(ElfFile(made[number]).by_name), number))
            commands = {number: command for number in rich[:_COMMANDS] if (command := _command(places.made, number))}
            self._compile(units, commands, place / "saved-in", places.saved)
            found: dict[str, dict[str, Any]] = {}
            for number, unit in enumerate(units):
                row: dict[str, Any] = {"parent": unit.parents[0], "way": "make"}
                if number in made:
                    saved = places.object(places.saved, number)
                    same = {} if saved is None else {"same": sha256_file(made[number]) == sha256_file(saved)}
                    found[unit.source] = row | same | self._compared(unit, made[number], None)
                else:
                    found[unit.source] = row | self._as_a_build(unit)
            return found

    def _make(self, units: Sequence[Unit], flags: str, inputs: Path, output: Path) -> None:
        _listed(inputs, dict(enumerate(units)))
        targets = [unit.target for unit in units]
        make = [*make_arguments(self.base.cc, 1), "-k", f"KCFLAGS={flags} {_NO_DEBUG}", *targets]
        self._run(["sh", "-c", _MAKE, "sh", *make], inputs, output)

    def _compile(self, units: Sequence[Unit], commands: dict[int, str], inputs: Path, output: Path) -> None:
        _listed(inputs, {number: units[number] for number in commands})
        for number, command in commands.items():
            (inputs / f"{number}.sh").write_text(command, encoding="utf-8")
        self._run(["sh", "-c", _COMPILE], inputs, output)

    def _run(self, argv: list[str], inputs: Path, output: Path) -> None:
        done = self.sandbox.run(
            argv, layers=[self.base.tree], inputs=inputs, output=output, tools=self.compiler.patch_headers,
            timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        done.check("Compiling objects")

    def _row(self, unit: Unit, number: int, places: Places) -> dict[str, Any]:
        made, saved = places.object(places.made, number), places.object(places.saved, number)
        row: dict[str, Any] = {"parent": unit.parents[0] if unit.parents else "", "way": "saved"}
        if made is None or saved is None:
            return row | self._as_a_build(unit)
        row["same"] = sha256_file(made) == sha256_file(saved)
        return row | self._compared(unit, made, None)

    def _plainly(self, unit: Unit, number: int, places: Places) -> dict[str, Any]:
        """Return the comparison of an object without sections; its functions may be others than with sections."""
        plain = places.object(places.plain, number)
        if plain is None:
            return {"failed": "It compiles with a section for each function and not without."}
        return self._compared(unit, plain, places.object(places.made, number))

    def _as_a_build(self, unit: Unit) -> dict[str, Any]:
        """Return the result for an object that a build compiles otherwise: after make, or not at all."""
        try:
            original = self.compiler.original(unit)
            plain = self.compiler.plain(unit, original)
            with tempfile.TemporaryDirectory(prefix="again-", dir=self.scratch) as directory:
                place = Path(directory)
                place.chmod(0o755)
                patched = self.compiler.patched(unit, original, writable_directory(place / "layer"), place)
                same = sha256_file(patched) == sha256_file(original.sectioned)
        except ElivepatchError as error:
            return {"way": "none", "failed": f"{error.problem.message} {error.problem.excerpt[-300:]}"}
        way = {"way": "make" if original.generated else "alone", "generated": list(original.generated), "same": same}
        return way | self._compared(unit, plain, original.sectioned)

    def _compared(self, unit: Unit, compiled: Path, sectioned: Path | None) -> dict[str, Any]:
        """Compare the functions of `compiled` with the shipped ones, and their names with those of `sectioned`."""
        plain = ElfFile(compiled)
        ours = {symbol.name for symbol in _functions(plain)}
        row: dict[str, Any] = {"functions": len(ours)}
        if sectioned is not None and (
            parted := sorted(ours ^ {symbol.name for symbol in _functions(ElfFile(sectioned))})
        ):
            row["parted"] = parted[:20]
        parent = unit.parents[0]
        linked = self.base.parent(parent)
        try:
            located = located_in(plain, linked, unit)
        except BuildStopped as stopped:
            return row | {"identical": 0, "unlocated": f"{stopped.problem.code}: {stopped.problem.message}"}
        exceptions: dict[str, dict[str, Any]] = {}
        for symbol, match in compare_functions(plain, linked, located):
            if match is not Match.SAME:
                exceptions[symbol.name] = _seen(symbol, match, plain, located.functions.get(symbol.name))
        return row | {"identical": len(ours - exceptions.keys()), "exceptions": exceptions}


def located_in(plain: ElfFile, linked: LinkedSymbols, unit: Unit) -> Located:
    """Find an object in its parent as a build does; raises BuildStopped.

    The assembler names no source file, so that only the global functions of its objects can be found, by their names.
    """
    if not unit.source.endswith(".S"):
        return locate(plain, linked, source=unit.source, parent=unit.parents[0])
    found = {}
    for symbol in _functions(plain):
        same = [one for one in linked.named.get(symbol.name, []) if one.bind == symbol.bind]
        if len(same) == 1:
            found[symbol.name] = same[0]
    return Located(Block(-1, "", ()), found)


def _places(directory: Path) -> Places:
    made, saved, plain = (writable_directory(directory / way) for way in ("made", "saved", "plain"))
    places = Places(made, saved, plain, directory / "taken")
    places.taken.mkdir()
    return places


def _seen(symbol: Symbol, match: Match, plain: ElfFile, shipped: Symbol | None) -> dict[str, Any]:
    section = plain.sections[symbol.section].name
    sizes = [symbol.size, shipped.size if shipped is not None else None]
    weak = shipped is not None and {symbol.bind, shipped.bind} == {BIND_WEAK}
    return {"match": str(match), "section": section, "sizes": sizes, "weak": weak}


def _functions(file: ElfFile) -> Iterator[Symbol]:
    return (one for one in file.symbols if one.kind == TYPE_FUNC and one.defined and not one.name.startswith("__pfx_"))


def _listed(inputs: Path, units: dict[int, Unit]) -> None:
    inputs.mkdir()
    (inputs / "targets").write_text("".join(f"{number} {unit.target}\n" for number, unit in units.items()))


def _command(made: Path, number: int) -> str | None:
    try:
        return saved_command(take(made, f"{number}.saved", limit_bytes=_LIMIT_BYTES).decode(errors="replace"))
    except (FileNotFoundError, ElivepatchError):
        return None
