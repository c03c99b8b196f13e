# SPDX-License-Identifier: GPL-2.0-or-later
"""Compile every object of stock kernels in the ways that a build does, and compare the results with the shipped kernel.

usage: every_object.py [RELEASE ...] [--sample N] [--seed N] [--shard I/N] [--jobs N] [--minutes N] [--fresh]
       every_object.py [RELEASE ...] --again

Each object of vmlinux and of the modules is compiled twice: by make, with a section for each function and datum, and by
the command that make saved. Both must be the same bytes. Each function is compared with the function that the shipped
kernel holds. If one differs, the object is compiled a third time without the flags for sections, as the kernel was, and
that counts: the assembler shortens jumps between functions of one section. Debug information is left out: it changes
no code, and takes a fifth of the time.

Many objects share one start of make and one sandbox, because a start of make takes longer than most compilations. An
object whose saved command fails in the pristine tree is then compiled by the product's own way (Compiler), which runs
make first where make makes other files for an object.

Writes bench/objects.json: for each kernel `objects, compared, same, differ, failed, functions, functions_identical,
exceptions` and the choice of objects. The journals lie in the cache, below every-object/, and stay there: a larger
sample or a later run continues with what is known. --fresh starts over. --again compiles the objects again whose
exceptions no rule explains, and puts the results into the file. Ends with status 1 if an object failed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from elivepatch.build.base.kbuild import make_arguments, without_sections
from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext, BuildSteps
from elivepatch.build.checks.fidelity import Located, Match, compare_functions, locate
from elivepatch.build.objects.compile import Compiler, saved_command
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take, take_file
from elivepatch.files.digest import sha256_file
from elivepatch.kernel.compile_units import Unit
from elivepatch.kernel.elf import BIND_WEAK, TYPE_FUNC, ElfFile, Symbol
from elivepatch.kernel.symbols import Block, LinkedSymbols
from elivepatch.model.errors import BuildStopped, ElivepatchError
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings
from journal import Journal
from object_summary import amended, entry_of, unexplained_sources, write_entry, write_summary

RELEASES = ("6.1.0-50-cloud-amd64", "6.12.118+deb13-cloud-amd64")
BATCH = 72
COMPARISON = 4
"""Raised when a row says something else than before of the same objects."""

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
    sh "/in/$number.sh" >"/out/$number.log" 2>&1 && cp -- "$target" "/out/$number.o"
    rm -f -- "$target"
done </in/targets
exit 0
"""
_NO_DEBUG = "-g0"


@dataclass(frozen=True, slots=True)
class Places:
    """Directories of one batch: outputs of make, of the saved commands, and of those without the flags for sections."""

    made: Path
    saved: Path
    plain: Path


@dataclass(frozen=True, slots=True)
class EveryObject:
    """One run over objects of one kernel."""

    base: Base
    sandbox: Sandbox
    compiler: Compiler
    scratch: Path

    def batch(self, units: Sequence[Unit]) -> dict[str, dict[str, Any]]:
        """Compile and compare some objects; return a row for each, by its source."""
        with tempfile.TemporaryDirectory(prefix="batch-", dir=self.scratch) as directory:
            place = Path(directory)
            place.chmod(0o755)
            places = Places(*(writable_directory(place / way) for way in ("made", "saved", "plain")))
            self._make(units, place / "make-in", places.made)
            commands = {number: command for number in range(len(units)) if (command := _command(places.made, number))}
            self._compile(units, commands, place / "saved-in", places.saved)
            rows = {number: self._row(unit, number, places) for number, unit in enumerate(units)}
            again = {
                number: without_sections(commands[number])
                for number, row in rows.items()
                if row["way"] == "saved" and row["identical"] < row["functions"]
            }
            if again:
                self._compile(units, again, place / "plain-in", places.plain)
            for number in again:
                # Without a word of the first comparison: the object may be found now.
                kept = {key: rows[number][key] for key in ("parent", "way", "same")}
                rows[number] = kept | self._plainly(units[number], number, places)
            return {unit.source: rows[number] for number, unit in enumerate(units)}

    def _make(self, units: Sequence[Unit], inputs: Path, output: Path) -> None:
        _listed(inputs, dict(enumerate(units)))
        targets = [unit.target for unit in units]
        make = [*make_arguments(self.base.cc, 1), "-k", f"KCFLAGS={self.base.section_flags} {_NO_DEBUG}", *targets]
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
        made, saved = places.made / f"{number}.o", places.saved / f"{number}.o"
        row: dict[str, Any] = {"parent": unit.parents[0] if unit.parents else "", "way": "saved"}
        if not made.is_file() or not saved.is_file():
            return row | self._by_the_product(unit)
        row["same"] = sha256_file(made) == sha256_file(saved)
        return row | self._compared(unit, _taken(made), None)

    def _plainly(self, unit: Unit, number: int, places: Places) -> dict[str, Any]:
        """Return the comparison of an object without sections; its functions may be others than with sections."""
        plain = places.plain / f"{number}.o"
        if not plain.is_file():
            return {"failed": "It compiles with a section for each function and not without."}
        return self._compared(unit, _taken(plain), places.made / f"{number}.taken")

    def _by_the_product(self, unit: Unit) -> dict[str, Any]:
        """Return the result for an object that the product compiles otherwise: after make, or not at all."""
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


def _taken(path: Path) -> Path:
    return take_file(path.parent, path.name, path.with_suffix(".taken"), limit_bytes=_LIMIT_BYTES)


def chosen(base: Base, *, sample: int, seed: int, shard: tuple[int, int]) -> list[Unit]:
    """Return the objects of a run, those of one parent side by side: its symbols are read once."""
    units = [base.units.by_source[source] for source in sorted(base.units.by_source)]
    if sample:
        # A larger sample of the same seed holds the smaller one.
        random.Random(seed).shuffle(units)  # noqa: S311 - a sample, no secret
        units = units[:sample]
    index, count = shard
    units = [unit for number, unit in enumerate(units) if number % count == index - 1]
    return sorted(units, key=lambda unit: (unit.parents, unit.source))


def batches(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Yield the units in groups that share a start of make."""
    remaining = iter(units)
    while group := list(islice(remaining, BATCH)):
        yield group


def run(base: Base, backend: LocalBackend, cache: Path, arguments: argparse.Namespace, until: float) -> Journal:
    """Compile and compare the chosen objects of one kernel; return the journal with the rows."""
    place = cache / "every-object"
    place.mkdir(exist_ok=True)
    facts = {"base": base.digest, "flags": base.section_flags, "comparison": COMPARISON}
    journal = Journal.beside(place / f"{base.release}.json", facts, fresh=arguments.fresh)
    units = chosen(base, sample=arguments.sample, seed=arguments.seed, shard=arguments.shard)
    todo = [unit for unit in units if unit.source not in journal.rows]
    lock, started = Lock(), time.monotonic()

    def one(every: EveryObject, group: list[Unit]) -> None:
        if time.monotonic() > until:
            return
        rows = every.batch(group)
        with lock:
            for source, row in rows.items():
                journal.record(source, row)
            done = sum(unit.source in journal.rows for unit in units)
            print(f"{base.release}: {done} of {len(units)}, {time.monotonic() - started:.0f} s", flush=True)

    with opened(base, backend, cache) as every, ThreadPoolExecutor(max_workers=arguments.jobs) as pool:
        for pending in [pool.submit(one, every, group) for group in batches(todo)]:
            pending.result()
    return journal


@contextmanager
def opened(base: Base, backend: LocalBackend, cache: Path) -> Iterator[EveryObject]:
    """Yield a run over objects of a kernel; its files are gone afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix="objects-", dir=cache / "tests"))
    scratch.chmod(0o755)
    steps = BuildSteps.within(BuildContext(base=base, toolchains=backend.toolchains, jobs=1))
    try:
        yield EveryObject(base, steps.sandbox(), steps.compiler(), scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def again(base: Base, backend: LocalBackend, cache: Path, into: Path) -> int:
    """Compile the objects with unexplained exceptions again and amend their kernel's entry; return as `write_entry`."""
    entry = entry_of(into, base)
    sources = unexplained_sources(entry)
    if not sources:
        return write_entry(into, entry)
    with opened(base, backend, cache) as every:
        rows = every.batch([base.units.by_source[source] for source in sources])
    return write_entry(into, amended(entry, rows))


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    return int(index), int(count)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare every object of stock kernels with the shipped kernel.")
    parser.add_argument("releases", nargs="*", default=RELEASES)
    parser.add_argument("--sample", type=int, default=0, help="that many objects, chosen by --seed; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shard", type=_shard, default=(1, 1), help="I/N: each Nth object from the Ith on")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=0, help="start no more batches after that time")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing an interrupted run")
    parser.add_argument("--again", action="store_true", help="only the objects with exceptions that no rule explains")
    parser.add_argument("--into", type=Path, default=Path(__file__).with_name("objects.json"))
    arguments = parser.parse_args()
    os.nice(19)
    cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
    backend = LocalBackend(ServerSettings(cache_dir=cache))
    until = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
    failed = 0
    for release in arguments.releases:
        base = backend.base(release)
        if arguments.again:
            failed += again(base, backend, cache, arguments.into)
            continue
        journal = run(base, backend, cache, arguments, until)
        choice = {
            "sample": arguments.sample or "all",
            "seed": arguments.seed,
            "shard": "{}/{}".format(*arguments.shard),
        }
        failed += write_summary(arguments.into, base, journal.rows, choice)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
