# SPDX-License-Identifier: GPL-2.0-or-later
"""The builder `reference`: unmodified kpatch-build on the whole kernel, for comparison with the builder `objects`.

kpatch-build compiles the unpatched kernel with a section for each function, then the parts that a series changes, and
links them. The unpatched half is the same for every series. It is compiled once, by a kpatch-build with a series that
changes nothing, and kept as a layer above the base's tree; a job sees it under a layer of its own. The module must pass
the same checks as every other module. docs/adr/0009 says when this builder is chosen, docs/adr/0002 why it is not the
default.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from elivepatch.build.base.kbuild import has_debug_info
from elivepatch.build.base.store import Base
from elivepatch.build.base.toolchain import HELPER
from elivepatch.build.builders.common import BuildSteps
from elivepatch.build.builders.kpatch import TOOLS_PATH, debuggable_kernel, kpatch_tools
from elivepatch.build.checks.fidelity import Located, check_fidelity, locate
from elivepatch.build.checks.layout.check import check_layouts, each_once
from elivepatch.build.checks.module import Expected, check_module
from elivepatch.build.checks.references import check_references, undefined, version_of
from elivepatch.build.escapes.find import NewCode
from elivepatch.build.objects.diff import classify
from elivepatch.build.objects.messages import error_lines, file_with_error
from elivepatch.build.objects.reach import Reach
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import made_by_series, take, take_file
from elivepatch.files.atomic import move, publish_tree
from elivepatch.files.digest import sha256, sha256_json
from elivepatch.files.lock import made_once
from elivepatch.kernel.compile_units import Unit
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.symbols import Block
from elivepatch.model.build import BuildOutcome, Note, PatchedFunction
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, EnvironmentFault, Problem
from elivepatch.model.kernel import VMLINUX
from elivepatch.model.series import PatchSeries
from elivepatch.process import Completed

VERSION = 2
"""Increased when the same input would give other bytes; part of every build key."""
_KERNEL_VERSION = 1  # of the compiled kernel that jobs share

_KERNEL_TIMEOUT_S = 6 * 3600.0
_OBJECT_LIMIT_BYTES = 256 << 20
_MODULE_LIMIT_BYTES = 256 << 20
_LOG_LIMIT_BYTES = 256 << 20
# A file that no makefile knows: kpatch-build builds everything twice, finds nothing changed and cleans up.
_NOTHING = b"--- /dev/null\n+++ b/elivepatch-changes-nothing\n@@ -0,0 +1 @@\n+nothing\n"
_SAME = ("no changed objects found", "no functional changes found")
_KLP_BUILD_SINCE = (6, 19)
_UNDEFINED = re.compile(r"Undefined symbols: (.+?)\.? *(?:Check |$)", re.MULTILINE)


def unsupported_reason(base: Base) -> str | None:
    """Return why kpatch-build does not support a base, None if it does."""
    if base.ibt:
        return "kpatch-build refuses CONFIG_X86_KERNEL_IBT"
    if version_of(base.release) >= _KLP_BUILD_SINCE:
        return "kpatch-build is no longer maintained for Linux 6.19 and later"
    if not has_debug_info(base.tree):
        return "kpatch-build refuses kernels without CONFIG_DEBUG_INFO"
    if base.toolchain != HELPER:
        return f"kpatch-build runs in the toolchain {HELPER} only"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceBuilder(BuildSteps):
    """Builds livepatches for one base, one job an instance.

    With `clean` the job compiles the unpatched kernel itself instead of using the kept one.
    """

    clean: bool = False

    def build(
        self, series: PatchSeries, *, name: str, work_dir: Path, check_only: bool = False, atomic_replace: bool = True
    ) -> BuildOutcome:
        """Build the livepatch `name` from `series` in the empty directory `work_dir`.

        With `check_only` the module is made and checked, but not returned: kpatch-build cannot stop before. With
        `atomic_replace` the livepatch replaces all earlier ones when it is enabled. The outcome's problem says what is
        wrong with the series. Raises EnvironmentFault if something else is broken.
        """
        try:
            outcome = self._build(series, name, work_dir, atomic_replace=atomic_replace)
        except BuildStopped as stopped:
            return BuildOutcome(problem=stopped.problem, seconds=dict(self.seconds))
        return _without_module(outcome) if check_only else outcome

    def _build(self, series: PatchSeries, name: str, work_dir: Path, *, atomic_replace: bool) -> BuildOutcome:
        prepared = self.prepare(series, work_dir)
        sandbox, reached = self.sandbox(), prepared.reached
        layers = [self.base.tree]
        if not self.clean:
            with self.timed("kernel", f"compiling the whole of {self.base.release}, once"):
                layers.append(self._built(sandbox))
        with self.timed("compile", "compiling what the series changes in the whole kernel, and linking"):
            output = self._kpatch_build(
                sandbox,
                [patch.content for patch in prepared.series.patches],
                name,
                work_dir,
                layers=layers,
                atomic_replace=atomic_replace,
            )
            with made_by_series("The module"):
                module = take_file(output, f"{name}.ko", work_dir / f"{name}.ko", limit_bytes=_MODULE_LIMIT_BYTES)
        with self.timed("check", "checking the module against the kernel"):
            functions, types, objects = self._check(module, name, reached, output, work_dir)
        notes = (*reached.notes, *types, *self.outliving([NewCode(path=module)], prepared.series))
        seen = dict.fromkeys(("layout", "references"), objects)
        seen |= dict.fromkeys(("fidelity", "entries"), len(functions))
        return BuildOutcome(module=module, functions=functions, notes=notes, seconds=dict(self.seconds), checks=seen)

    def _built(self, sandbox: Sandbox) -> Path:
        """Return the layer with the compiled unpatched kernel, made now if no job has needed it before."""
        kept = self.base.directory / "reference"
        made_by = sha256_json([_KERNEL_VERSION, self.toolchains.helper().digest])
        lock = self.base.directory / ".reference.lock"
        with made_once(lock, progress=self.progress, waiting_for=f"compiling the whole of {self.base.release}"):
            mark = kept / "made-by"
            if mark.is_file() and mark.read_text() == made_by:
                return kept / "layer"
            for left in (*self.base.directory.glob(".reference-*"), kept):
                shutil.rmtree(left, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=".reference-", dir=self.base.directory))
            try:
                scratch.chmod(0o755)
                self._compile_all(sandbox, scratch)
                staged = scratch / "staged"
                staged.mkdir(mode=0o755)
                move(scratch / "upper/changed", staged / "layer")
                (staged / "made-by").write_text(made_by)
                publish_tree(staged, kept)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return kept / "layer"

    def _compile_all(self, sandbox: Sandbox, scratch: Path) -> None:
        try:
            self._kpatch_build(sandbox, [_NOTHING], "nothing", scratch, layers=[self.base.tree], keep=False)
        except BuildStopped as stopped:
            if stopped.problem.code == "no-change":
                return
            raise EnvironmentFault(
                "kernel-build",
                f"kpatch-build cannot compile the kernel {self.base.release}.",
                advice="The base's own build must have succeeded: remove the base and add it again.",
                excerpt=stopped.problem.excerpt,
            ) from stopped

    def _kpatch_build(
        self,
        sandbox: Sandbox,
        patches: Sequence[bytes],
        name: str,
        work_dir: Path,
        *,
        layers: Sequence[Path],
        atomic_replace: bool = True,
        keep: bool = True,
    ) -> Path:
        """Run kpatch-build above `layers`, whose changes are kept in `work_dir`/upper; return its output directory.

        With `keep` its temporary files stay in the output, and the patched sources in the tree.
        """
        inputs, output, upper = (work_dir / part for part in ("inputs", "output", "upper"))
        inputs.mkdir()
        upper.mkdir()
        writable_directory(output)
        names = [f"/in/{number:05}.patch" for number in range(len(patches))]
        for place, content in zip(names, patches, strict=True):
            (inputs / posixpath.basename(place)).write_bytes(content)
        debuggable_kernel(self.base, sandbox, into=inputs / VMLINUX, work_dir=work_dir)
        command = ["/tools/bin/kpatch-build", "--sourcedir", "/src", "--vmlinux", f"/in/{VMLINUX}", "--name", name,
                   "--jobs", str(self.jobs), "--output", "/out", *["--skip-cleanup"] * keep,
                   *["--non-replace"] * (not atomic_replace), *names]  # fmt: skip
        done = sandbox.run(
            command,
            layers=layers,
            upper=upper,
            inputs=inputs,
            output=output,
            tools=kpatch_tools(self.base, self.toolchains.helper(), work_dir / "tools"),
            env={"PATH": TOOLS_PATH, "CACHEDIR": "/out/kpatch"},
            timeout_s=_KERNEL_TIMEOUT_S,
            cancellation=self.cancellation,
        )
        if not done.ok:
            raise BuildStopped(explain(done, _log_of(output)))
        return output

    def _check(
        self, module: Path, name: str, reached: Reach, output: Path, work_dir: Path
    ) -> tuple[tuple[PatchedFunction, ...], tuple[Note, ...], int]:
        """Check the module as those of the builder `objects` are.

        Returns the functions that it replaces, notes, and the number of objects that were looked at.
        """
        compiler = self.compiler()
        plain: dict[str, ElfFile] = {}
        found: dict[str, Located] = {}
        expected: list[Expected] = []
        blocks: dict[str, list[Block]] = {}
        units = [unit for unit in reached.units if self._take_objects(unit, output, work_dir)]
        for unit in units:
            parent = unit.parents[0]
            plain[unit.source] = ElfFile(compiler.plain(unit, compiler.original(unit)))
            located = locate(plain[unit.source], self.base.parent(parent), source=unit.source, parent=parent)
            found[unit.source] = located
            blocks.setdefault(parent, []).append(located.block)
            expected += [Expected(parent, unit.source, symbol) for symbol in located.functions.values()]
        check_references([_object(work_dir, unit, "output") for unit in units], self.base)
        functions = check_module(module, name, self.base, expected, blocks)
        notes: list[tuple[Note, ...]] = []
        for unit in units:
            parent = unit.parents[0]
            changed = [one.name for one in functions if one.source == unit.source]
            check_fidelity(
                plain[unit.source], self.base.parent(parent), found[unit.source], changed,
                source=unit.source, parent=parent,
            )  # fmt: skip
            types = check_layouts(
                original=_object(work_dir, unit, "orig"),
                patched=_object(work_dir, unit, "patched"),
                source=unit.source,
                sandbox=self.helper(),
                cancellation=self.cancellation,
            )
            notes.append(types)
        return functions, each_once(notes), len(units)

    def _take_objects(self, unit: Unit, output: Path, work_dir: Path) -> bool:
        """Copy kpatch-build's objects of a unit to `work_dir`; return if the unit has changed."""
        for kind in ("output", "orig", "patched"):
            place = _object(work_dir, unit, kind)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                content = take(
                    output, f"kpatch/tmp/{kind}/{posixpath.normpath(unit.target)}", limit_bytes=_OBJECT_LIMIT_BYTES
                )
            except FileNotFoundError:
                return False
            place.write_bytes(content)
        return True


def _object(work_dir: Path, unit: Unit, kind: str) -> Path:
    return work_dir / "objects" / sha256(unit.target.encode())[:16] / f"{kind}.o"


def _without_module(outcome: BuildOutcome) -> BuildOutcome:
    return replace(outcome, module=None)


def _log_of(output: Path) -> str:
    try:
        return take(output, "kpatch/build.log", limit_bytes=_LOG_LIMIT_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""


def explain(done: Completed, log: str) -> Problem:
    """Return the problem that the messages of kpatch-build and of its log mean for the author of the series."""
    said = (done.output + done.log).decode(errors="replace")
    excerpt = error_lines(log) or done.tail()
    if done.timed_out:
        return problem("out-of-time", "Building the whole kernel took too long.", excerpt=excerpt)
    if any(words in said for words in _SAME):
        return problem("no-change", "The compiled code is the same with and without the series.")
    if "failed to apply" in said:
        return problem("does-not-apply", "The series does not apply to this kernel's source.", excerpt=done.tail())
    if found := _UNDEFINED.search(said):
        return undefined(found[1].split())
    if "error(s) encountered" in said or "SIGSEGV" in said:
        return classify(replace(done, output=said.encode(), log=b""), "a changed object")
    if file_with_error(log) is not None:
        return problem("compile-error", "The kernel does not compile with the series.", excerpt=excerpt)
    return problem("reference-failed", "kpatch-build failed.", excerpt="\n".join([done.tail(5), excerpt]))
