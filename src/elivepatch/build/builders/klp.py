# SPDX-License-Identifier: GPL-2.0-or-later
"""The builder `klp`: the kernel's own klp-build, which compares whole kernels (Linux 6.19 and later).

The original half of klp-build's work is kept (klp_tree.py). Of the patched half, only the files that it reads are made:
vmlinux.o and the composite objects of modules, neither linked. Its later steps, from the comparison to the finished
module, run unchanged. klp-build does not check if the rebuilt functions are those that the host runs, nor layouts of
structures, entries for ftrace, __init code, and symbol positions in the shipped kernel. It does not compare tables that
the compiler made, nor the static variables of macros. The checks of the builder `objects` do that here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.account.account import Account, take_account
from elivepatch.build.account.settlement import Carried, settle, settle_functions
from elivepatch.build.base.kbuild import make_arguments
from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildSteps
from elivepatch.build.builders.klp_messages import not_compiled, not_made, switched_off
from elivepatch.build.builders.klp_tree import BUILD_VARIABLES, ORIGINALS, KlpTree, klp_tree, unsupported_reason
from elivepatch.build.checks.fidelity import Located, check_fidelity, locate
from elivepatch.build.checks.functions import Replaced, read_functions
from elivepatch.build.checks.layout.check import check_layouts, each_once
from elivepatch.build.checks.module import Expected, check_module
from elivepatch.build.escapes.find import NewCode
from elivepatch.build.objects.apply import Applied
from elivepatch.build.objects.explain import Explainer
from elivepatch.build.objects.reach import Reach
from elivepatch.build.sandbox.bubblewrap import writable_directory
from elivepatch.build.sandbox.output import made_by_series, take, take_file
from elivepatch.kernel.compile_units import Unit
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.symbols import Block, LinkedSymbols
from elivepatch.model.build import BuildOutcome, Note, PatchedFunction
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.model.kernel import VMLINUX
from elivepatch.model.series import PatchSeries
from elivepatch.patch.parse import TouchedFile

VERSION = 2
"""Increased when the same input would give other bytes; part of every build key."""

_TIMEOUT_S = 3600.0
_MODULE_LIMIT_BYTES = 64 << 20
_KERNEL_LIMIT_BYTES = 2 << 30
_LIST_LIMIT_BYTES = 16 << 20
# make, not we, decides what to compile again: this is a second opinion on the reach of a series.
_COMPILE = r"""
set -e
xargs -a /out/removed -d '\n' rm -f --
"$@" vmlinux_o
while read -r target; do
    cmp -s "$target" "/in/$target" || echo "$target"
done </out/targets >/out/changed
mkdir -p klp-tmp/2-patched
for object in vmlinux.o $(cat modules.order); do
    cmp -s "$object" "/in/$object" && continue
    mkdir -p klp-tmp/3-checksum-patched
    cp --parents "$object" klp-tmp/3-checksum-patched
    tools/objtool/objtool klp checksum "klp-tmp/3-checksum-patched/$object"
done
[ -d klp-tmp/3-checksum-patched ] || exit 7
touch klp-tmp/2-patched/.complete klp-tmp/3-checksum-patched/.complete
"""
_NOTHING_MADE = 7
# klp-build ends with status 0 even for a wrong option: only a module shows success. It begins by running kconfig twice
# to see if the configuration is complete, which takes as long as the rest; the base's was checked when it was made.
_COMPARE = """
make() {
    case "$*" in
        '-s listnewconfig' | syncconfig) ;;
        *) command make "$@" ;;
    esac
}
export -f make
scripts/livepatch/klp-build --short-circuit diff --keep-tmp "$@"
"""


@dataclass(frozen=True, slots=True)
class _Checked:
    """An object that the series changes, located in the kernel that the host runs."""

    unit: Unit
    plain: ElfFile
    located: Located
    notes: tuple[Note, ...]
    account: Account

    @property
    def parent(self) -> str:
        return self.unit.parents[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class KlpBuilder(BuildSteps):
    """Builds livepatches for one base, one job an instance."""

    def build(
        self, series: PatchSeries, *, name: str, work_dir: Path, check_only: bool = False, atomic_replace: bool = True
    ) -> BuildOutcome:
        """Build the livepatch `name` from `series` in the empty directory `work_dir`.

        With `check_only` the module is made and checked, but not returned: the comparison is most of the work. With
        `atomic_replace` the livepatch replaces all earlier ones when it is enabled. The outcome's problem says what is
        wrong with the series; it is `builder-unfit` if klp-build does not support the kernel. Raises EnvironmentFault
        if something else is broken.
        """
        if reason := unsupported_reason(self.base):
            return BuildOutcome(
                problem=problem("builder-unfit", f"The builder klp cannot build for {self.base.release}: {reason}.")
            )
        try:
            outcome = self._build(series, name, work_dir, atomic_replace=atomic_replace)
        except BuildStopped as stopped:
            found = Explainer(series, self.base.tree).explain(stopped.problem)
            return BuildOutcome(problem=found, seconds=dict(self.seconds))
        return dataclasses.replace(outcome, module=None) if check_only else outcome

    def _build(self, series: PatchSeries, name: str, work_dir: Path, *, atomic_replace: bool) -> BuildOutcome:
        prepared = self.prepare(series, work_dir)
        reached, applied, sandbox = prepared.reached, prepared.applied, self.sandbox()
        with self.timed("tree", f"preparing the built tree of {self.base.release}"):
            tree = klp_tree(self.base, sandbox, jobs=self.jobs, progress=self.progress, cancellation=self.cancellation)
        with self.timed("compile", "compiling what the series changes in the whole kernel"):
            layers, units = self._compile(tree, prepared.touched, reached, applied, work_dir)
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            checked = [
                pool.submit(self._object, unit, applied, work_dir / f"object-{n}") for n, unit in enumerate(units)
            ]
            with self.timed("link", "comparing, and linking the module"):
                module, warned = self._module(layers, name, work_dir, checked, atomic_replace=atomic_replace)
            with self.timed("check", "checking the module against the kernel"):
                objects = [one.result() for one in checked]
                functions = self._check(module, name, tree, objects)
        notes = (
            *reached.notes,
            *each_once(one.notes for one in objects),
            *warned,
            *Explainer(prepared.series, self.base.tree).notes(_by_source(functions)),
            *self.outliving([NewCode(path=module)], prepared.series),
        )
        seen = dict.fromkeys(("layout", "functions"), len(objects))
        seen |= dict.fromkeys(("fidelity", "entries"), len(functions))
        return BuildOutcome(module=module, functions=functions, notes=notes, seconds=dict(self.seconds), checks=seen)

    def _compile(
        self, tree: KlpTree, touched: Sequence[TouchedFile], reached: Reach, applied: Applied, work_dir: Path
    ) -> tuple[list[Path], list[Unit]]:
        """Compile the parts of the patched kernel that are compared; return its layers and the objects that changed."""
        output, upper = work_dir / "compiled", work_dir / "patched"
        upper.mkdir()
        writable_directory(output)
        by_target = {unit.target: unit for unit in reached.units}
        _write_list(output / "targets", by_target)
        _write_list(output / "removed", [file.path for file in touched if file.removed])
        _make_newer(applied.layer, tree.made_at)
        layers = [self.base.tree, tree.layer, applied.layer]
        make = [*make_arguments(self.base.cc, self.jobs), "-s", *BUILD_VARIABLES]
        done = self.sandbox().run(
            ["bash", "-c", _COMPILE, "bash", *make],
            layers=layers,
            upper=upper,
            inputs=tree.layer,
            output=output,
            timeout_s=_TIMEOUT_S,
            cancellation=self.cancellation,
        )
        if done.status == _NOTHING_MADE:
            raise _unchanged(reached)
        if not done.ok:
            raise BuildStopped(not_compiled(done))
        changed = take(output, "changed", limit_bytes=_LIST_LIMIT_BYTES).decode(errors="replace").splitlines()
        return [*layers, upper / "changed"], [by_target[target] for target in changed if target in by_target]

    def _module(
        self,
        layers: Sequence[Path],
        name: str,
        work_dir: Path,
        checked: Sequence[Future[_Checked]],
        *,
        atomic_replace: bool,
    ) -> tuple[Path, tuple[Note, ...]]:
        """Return the module, and notes about what klp-build left out of it with a warning."""
        output, upper = work_dir / "linked", work_dir / "compared"
        upper.mkdir()
        writable_directory(output)
        options = [f"--jobs={self.jobs}", f"--output=/out/{name}.ko", *["--no-replace"] * (not atomic_replace)]
        # klp-build's own calls of make must find the compiler that the tree was configured with.
        variables = " ".join(make_arguments(self.base.cc, self.jobs)[2:])
        done = self.sandbox().run(
            ["bash", "-c", _COMPARE, "bash", *options],
            layers=layers,
            upper=upper,
            output=output,
            env={"MAKEFLAGS": variables},
            timeout_s=_TIMEOUT_S,
            cancellation=self.cancellation,
        )
        try:
            with made_by_series("The module"):
                content = take(output, f"{name}.ko", limit_bytes=_MODULE_LIMIT_BYTES)
        except FileNotFoundError:
            _raise_closer(checked)
            found = not_made(done, release=self.base.release)
            if found.code == "no-change":
                for one in checked:
                    _require_unchanged(one.result())
            raise BuildStopped(found) from None
        module = work_dir / f"{name}.ko"
        module.write_bytes(content)
        return module, switched_off(done)

    def _object(self, unit: Unit, applied: Applied, directory: Path) -> _Checked:
        """Locate an object in the kernel that the host runs, and compare the structures that it knows."""
        directory.mkdir()
        compiler = self.compiler()
        original = compiler.original(unit)
        patched = compiler.patched(unit, original, applied.layer, directory)
        notes = check_layouts(
            original=original.sectioned,
            patched=patched,
            source=unit.source,
            sandbox=self.helper(),
            cancellation=self.cancellation,
        )
        plain = ElfFile(compiler.plain(unit, original))
        parent = unit.parents[0]
        located = locate(plain, self.base.parent(parent), source=unit.source, parent=parent)
        account = take_account(original.sectioned, patched, self.base.struct_sizes)
        return _Checked(unit, plain, located, notes, account)

    def _check(
        self, module: Path, name: str, tree: KlpTree, objects: Sequence[_Checked]
    ) -> tuple[PatchedFunction, ...]:
        replaced = read_functions(ElfFile(module))
        rebuilt = take_file(
            tree.layer, f"{ORIGINALS}/{VMLINUX}", module.with_name("rebuilt-vmlinux"), limit_bytes=_KERNEL_LIMIT_BYTES
        )
        _check_order(replaced, self.base, rebuilt)
        blocks: dict[str, list[Block]] = {}
        expected: list[Expected] = []
        for one in objects:
            blocks.setdefault(one.parent, []).append(one.located.block)
            changed = [function for function in replaced if self._holds(one, function)]
            expected += [
                Expected(one.parent, one.unit.source, one.located.functions[function.name]) for function in changed
            ]
            its = {function.name for function in replaced if function.object == one.parent}
            settle_functions(one.account, source=one.unit.source, replaced=its)
            check_fidelity(
                one.plain, self.base.parent(one.parent), one.located, [function.name for function in changed],
                source=one.unit.source, parent=one.parent,
            )  # fmt: skip
        return check_module(module, name, self.base, expected, blocks)

    def _holds(self, one: _Checked, function: Replaced) -> bool:
        """Return if a function that the module replaces is this object's."""
        symbol = one.located.functions.get(function.name)
        if symbol is None or function.object != one.parent:
            return False
        return max(self.base.parent(one.parent).position(symbol), 1) == max(function.sympos, 1)


def _check_order(replaced: Sequence[Replaced], base: Base, rebuilt: Path) -> None:
    """Raise BuildStopped if files with functions of one name have another order in the shipped kernel.

    Positions were counted in the kernel that was rebuilt with a section for each function, which the linker sorts.
    """
    names = {one.name for one in replaced if one.object == VMLINUX and one.sympos}
    if not names:
        return
    ours = LinkedSymbols(ElfFile(rebuilt), is_vmlinux=True)
    for name in sorted(names):
        if _files(ours, name) != _files(base.vmlinux, name):
            sentence = f"The functions called {name} have another order in the kernel than in the rebuilt one."
            raise BuildStopped(problem("duplicate-symbol", sentence))


def _files(linked: LinkedSymbols, name: str) -> list[str]:
    """Return the base names of the sources that have a symbol of a name, in the order of positions."""
    places = {
        symbol.number: block.name
        for blocks in linked.blocks.values()
        for block in blocks
        for symbol in block.symbols
        if symbol.name == name
    }
    return [places.get(symbol.number, "") for symbol in linked.named.get(name, [])]


def _make_newer(layer: Path, made_at: float) -> None:
    # make must see that these are newer than the objects, even if the clock was set back since those were made.
    for path in layer.rglob("*"):
        if path.stat().st_mtime <= made_at + 1:
            os.utime(path, (made_at + 2, made_at + 2))


def _write_list(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def _raise_closer(checked: Sequence[Future[_Checked]]) -> None:
    """Raise the problem of an object, if any: a changed layout is the cause of changed data that klp-build reports."""
    for one in checked:
        if isinstance(found := one.exception(), BuildStopped):
            raise found


def _require_unchanged(one: _Checked) -> None:
    """Raise BuildStopped if an object differs in what klp-build does not compare, such as the table of a `switch`."""
    settle(one.account, source=one.unit.source, carried=Carried(None, frozenset()))


def _unchanged(reached: Reach) -> BuildStopped:
    sources = ", ".join(unit.source for unit in reached.units)
    return BuildStopped(problem("no-change", f"{sources}: the compiled code is the same."))


def _by_source(functions: Iterable[PatchedFunction]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for one in functions:
        found.setdefault(one.source, set()).add(one.name)
    return {source: frozenset(names) for source, names in found.items()}
