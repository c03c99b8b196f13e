# SPDX-License-Identifier: GPL-2.0-or-later
"""Build every patch of a folder for one stock kernel, and load, revert and reload all that become livepatches.

A patch that cannot be a livepatch is built as `check --rewrite` proposes it, if that proposes anything; its entry says
so.

usage: corpus.py [DIR] [--kernel RELEASE] [--debugging] [--fresh]

DIR holds one .patch for each fix, named after its CVE (default: ../shared/data/cve-fixes-6.1.176). Writes
bench/corpus.json: a list with `cve, file, class, code, reason, functions, seconds, loaded` for each fix, for a
rewrite `rewritten` and its `steps`, or why there is none, and for each fix that was tried `outcome, replaced, executed`
and `observed`: the calls of each replaced function under the trial's workload, null if they were not counted. With
--debugging each fix that became a livepatch is also tried on the debugging kernel of the same source, which is built
first if it is missing (half an hour); its `debug` has the outcome there, or the reason why there is none.

An interrupted run continues (journal.py); --fresh starts over. Ends with status 1 if a fix ended in an error of ours or
in a fault of the run, if a livepatch whose parent loads did not pass its trial, or if fewer than 95 % of the patches
that compile, change code and are safe in layout became livepatches that were loaded, reverted and loaded again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.select import VERSIONS, build_with_selected
from elivepatch.model.build import BuildOutcome, BuildRequest, PatchedFunction, Proposal
from elivepatch.model.errors import ElivepatchError, Kind
from elivepatch.model.kernel import VMLINUX
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.parse import read_series
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.debug_trial import try_on_debug_kernel
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import TrialCase
from elivepatch.trial.run import run_trials
from elivepatch.trial.workload.guest_files import plan
from journal import Journal

HERE = Path(__file__).parent
RESULT = HERE / "corpus.json"
GOAL = 0.95
WORKLOAD_S = ServerSettings().workload_s
TRIED_TOGETHER = 24
"""Livepatches of one boot: an interruption costs their trials at most."""
CLASSES = {
    "not-built": "not built",
    "data-layout": "unsafe layout",
    "no-change": "no change",
    "init-only": "start-up code only",
    "header": "header",
    "compile-error": "does not compile alone",
    "undefined-symbol": "does not compile alone",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Build and try a folder of real fixes.")
    parser.add_argument("dir", nargs="?", type=Path, default=HERE.parent.parent / "shared/data/cve-fixes-6.1.176")
    parser.add_argument("--kernel", default="6.1.0-50-cloud-amd64")
    parser.add_argument("--debugging", action="store_true", help="try each fix on the debugging kernel too")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing an interrupted run")
    arguments = parser.parse_args()
    patches = sorted(arguments.dir.glob("*.patch")) if arguments.dir.is_dir() else []
    if not patches:
        print(f"{arguments.dir} holds no .patch file; give a folder: make corpus DIR=...", file=sys.stderr)
        return 2
    cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
    backend = LocalBackend(ServerSettings(cache_dir=cache))
    base = backend.base(
        backend.maker(lambda event: print(event.message, file=sys.stderr)).add(arguments.kernel).release
    )
    # Modules of an interrupted run wait here for their trial.
    place = cache / "scratch/corpus"
    if arguments.fresh:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    facts = {"base": base.digest, "builders": VERSIONS, "helper": backend.toolchains.helper().digest}
    journal = Journal.beside(RESULT, facts, fresh=arguments.fresh)
    corpus = Corpus(backend, base, cache, place, journal)
    entries = [corpus.entry(path) for path in patches]
    corpus.try_all([entry for entry in entries if entry["class"] == "converted"])
    if arguments.debugging:
        kernel = backend.make_debug_kernel(base, lambda event: print(event.message, file=sys.stderr))
        for entry, path in zip(entries, patches, strict=True):
            if entry["class"] == "converted":
                entry["debug"] = corpus.debug(entry, path, kernel)
    RESULT.write_text(json.dumps(entries, indent=1) + "\n")
    if journal.finish():
        shutil.rmtree(place)
    return summary(entries)


@dataclass(frozen=True, slots=True)
class Corpus:
    """One run: fixes are built one by one, then their modules are tried in groups. `place` holds the modules."""

    backend: LocalBackend
    base: Base
    cache: Path
    place: Path
    journal: Journal

    def entry(self, path: Path) -> dict[str, Any]:
        """Return what comes of one fix, from the journal or by building it."""
        content = path.read_bytes()
        key = f"build {path.stem} {hashlib.sha256(content).hexdigest()[:16]}"
        row = self.journal.result(key, lambda: self._build(path.stem, PatchSeries((SourcePatch(path.name, content),))))
        if "fault" in row:
            row = faulty(path.stem, row["fault"])
        print(f"{row['cve']:18} {row['seconds']:5.1f} s  {row['class']:22} {row['reason']}", flush=True)
        return dict(row)

    def _build(self, cve: str, series: PatchSeries) -> dict[str, Any]:
        name = module_name(cve)
        started = time.monotonic()
        context = BuildContext(base=self.base, toolchains=self.backend.toolchains, jobs=os.cpu_count() or 1)
        with tempfile.TemporaryDirectory(prefix="corpus-", dir=self.cache / "scratch") as directory:
            work_dir = Path(directory)
            work_dir.chmod(0o755)
            first, outcome = built(context, series, name, work_dir)
            if outcome.module is not None:
                shutil.copyfile(outcome.module, self.place / f"{name}.ko")
        return described(cve, series, outcome, time.monotonic() - started) | rewriting(first)

    def try_all(self, entries: list[dict[str, Any]]) -> None:
        """Load, revert and reload the modules; each group of them has a boot of its own, at least."""
        print(f"\nloading, reverting and reloading {len(entries)} livepatches on {self.base.release}", flush=True)
        pending = []
        for entry in entries:
            known = self.journal.rows.get(f"trial {entry['cve']}")
            if known is None:
                pending.append(entry)
            else:
                entry.update(known)
        for start in range(0, len(pending), TRIED_TOGETHER):
            group = pending[start : start + TRIED_TOGETHER]
            names = " ".join(entry["cve"] for entry in group)
            rows = self.journal.result(f"trials {names}", partial(self._try, group))
            for entry in group:
                entry.update(rows.get(entry["cve"], {"parents_loaded": True, "trial": [rows.get("fault", "")]}))

    def debug(self, entry: dict[str, Any], path: Path, kernel: Base) -> dict[str, Any]:
        """Return what came of a fix on a debugging kernel: of its livepatch's series, a proposal if it needed one."""
        row = self.journal.result(
            f"debug {kernel.digest[:16]} {entry['cve']}", partial(self._debug, entry, path, kernel)
        )
        print(f"{entry['cve']:18} {kernel.release}: {row.get('outcome')} {row.get('why_not', '')}", flush=True)
        return dict(row)

    def _debug(self, entry: dict[str, Any], path: Path, kernel: Base) -> dict[str, Any]:
        series = PatchSeries((SourcePatch(path.name, path.read_bytes()),))
        context = BuildContext(base=kernel, toolchains=self.backend.toolchains, jobs=os.cpu_count() or 1)
        with tempfile.TemporaryDirectory(prefix="corpus-debug-", dir=self.cache / "scratch") as directory:
            place = Path(directory)
            place.chmod(0o755)
            if entry["rewritten"]:
                series = proposed(series, context, place / "check")
            answer = try_on_debug_kernel(
                BuildRequest(release=self.base.release, series=series), replaced_by(entry), context,
                name=module_name(entry["cve"]), build_dir=place, work_dir=place / "guest", cache_dir=self.cache,
                workload_s=WORKLOAD_S,
            )  # fmt: skip
        return {
            "kernel": kernel.release,
            "outcome": str(answer.outcome) if answer.outcome is not None else None,
            "why_not": answer.problem.message if answer.problem is not None else answer.why_not,
            "observed": {f"{one.object}:{one.function}": one.calls for one in answer.functions},
            "missing": list(answer.missing),
            "seconds": answer.seconds,
        }

    def _try(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        cases = [
            TrialCase.of(
                self.place / f"{module_name(entry['cve'])}.ko",
                module_name(entry["cve"]),
                sorted({one.partition(":")[0] for one in entry["functions"]} - {VMLINUX}),
                (),
                plan(replaced_by(entry), WORKLOAD_S),
            )
            for entry in entries
        ]
        with tempfile.TemporaryDirectory(prefix="corpus-trials-", dir=self.cache / "scratch") as directory:
            reports = run_trials(
                kernel=guest_kernel(self.base), cases=cases, work_dir=Path(directory), cache_dir=self.cache,
                timeout_s=300,
            )  # fmt: skip
        found: dict[str, Any] = {}
        for entry, case, report in zip(entries, cases, reports, strict=True):
            row: dict[str, Any] = {
                # One that stays in memory is loaded once.
                "loaded": report.passed and (report.reloaded or case.stays) and not report.unloaded_parents,
                "parents_loaded": not report.unloaded_parents,
                "outcome": str(report.outcome),
                "replaced": report.replaced,
                "executed": report.executed,
                "observed": {f"{one.object}:{one.function}": one.calls for one in report.functions},
            }
            if report.problems:  # none if a parent alone could not be live
                row["trial"] = [problem.as_dict() for problem in report.problems]
                print(f"{entry['cve']}: {report.problems[0].message}", flush=True)
            found[entry["cve"]] = row
            self.journal.record(f"trial {entry['cve']}", row)
        return found


def replaced_by(entry: dict[str, Any]) -> list[PatchedFunction]:
    """Return the functions of an entry; their positions among symbols of one name do not matter here."""
    pairs = zip(entry["functions"], entry["sources"], strict=True)
    parts = [(*name.partition(":"), source) for name, source in pairs]
    return [PatchedFunction(object=part[0], name=part[2], sympos=0, source=part[3]) for part in parts]


def module_name(cve: str) -> str:
    """Return the name of the livepatch of a fix."""
    return "livepatch_" + "".join(c if c.isalnum() else "_" for c in cve.lower())[:40]


def faulty(cve: str, fault: str) -> dict[str, Any]:
    """Return the entry of a fix on which the run itself failed."""
    return {
        "cve": cve, "file": "", "class": "fault of the run", "code": "", "kind": str(Kind.ERROR), "reason": fault,
        "functions": [], "sources": [], "seconds": 0.0, "loaded": False, "rewritten": False,
    }  # fmt: skip


def built(context: BuildContext, series: PatchSeries, name: str, work_dir: Path) -> tuple[BuildOutcome, BuildOutcome]:
    """Return the outcome of a check with a rewrite, and that of building the series or the proposal."""
    places = [work_dir / which for which in ("check", "build")]
    for place in places:
        place.mkdir(mode=0o755)
    request = BuildRequest(release=context.base.release, series=series, check_only=True, rewrite=True)
    checked = build_with_selected(request, context, name=name, work_dir=places[0])
    proposal = checked.proposal
    if proposal is not None and not proposal.patch:
        return checked, checked
    if proposal is not None:
        series = _of_proposal(proposal)
    request = BuildRequest(release=context.base.release, series=series)
    return checked, build_with_selected(request, context, name=name, work_dir=places[1])


def proposed(series: PatchSeries, context: BuildContext, work_dir: Path) -> PatchSeries:
    """Return the series that a check for the kernel of `context` proposes: its offsets are those of that kernel."""
    work_dir.mkdir(mode=0o755)
    request = BuildRequest(release=context.base.release, series=series, check_only=True, rewrite=True)
    proposal = build_with_selected(request, context, name="livepatch_proposed", work_dir=work_dir).proposal
    return _of_proposal(proposal) if proposal is not None and proposal.patch else series


def _of_proposal(proposal: Proposal) -> PatchSeries:
    return PatchSeries((SourcePatch("proposed.patch", proposal.patch.encode()),))


def rewriting(checked: BuildOutcome) -> dict[str, Any]:
    """Return the part of an entry that describes the rewrite."""
    if checked.proposal is None or checked.problem is None:
        return {"rewritten": False}
    steps = [f"{step.path}: {step.what} [{step.code}]. {step.why}." for step in checked.proposal.steps]
    return {
        "rewritten": bool(checked.proposal.patch),
        "steps": steps,
        "not_rewritten": checked.proposal.refusal,
        "before": f"{checked.problem.message} [{checked.problem.code}]",
    }


def described(cve: str, series: PatchSeries, outcome: BuildOutcome, seconds: float) -> dict[str, Any]:
    """Return the entry of one patch."""
    try:
        file = ", ".join(touched.path for touched in read_series(series))
    except ElivepatchError:
        file = ""
    problem = outcome.problem
    functions = [f"{one.object}:{one.name}" for one in outcome.functions]
    return {
        "cve": cve,
        "file": file,
        "class": "converted" if problem is None else CLASSES.get(problem.code, "refused"),
        "code": "" if problem is None else problem.code,
        "kind": "" if problem is None else str(problem.kind),
        "reason": ", ".join(functions) if problem is None else problem.message,
        "functions": functions,
        "sources": [one.source for one in outcome.functions],
        "seconds": round(seconds, 2),
        "loaded": False,
    }


def summary(entries: list[dict[str, Any]]) -> int:
    """Print the counts and return the exit status."""
    print()
    for name, count in Counter(entry["class"] for entry in entries).most_common():
        print(f"{count:4} {name}")
    converted = [entry for entry in entries if entry["class"] == "converted"]
    loaded = [entry for entry in converted if entry["loaded"]]
    print(f"{len(loaded)} of {len(converted)} livepatches were loaded, reverted and reloaded")
    replaced = sum(entry.get("replaced", 0) for entry in converted)
    executed = sum(entry.get("executed") or 0 for entry in converted)
    print(f"{executed} of {replaced} replaced functions were called under the workload")
    for entry in converted:
        never = [name for name, calls in entry.get("observed", {}).items() if not calls]
        if never:
            print(f"    not seen to run: {entry['cve']}: {', '.join(never)}")
        if entry["rewritten"]:
            print(f"{entry['cve']} was rewritten: {entry['before']}")
            print("".join(f"    {step}\n" for step in entry["steps"]), end="")
    debugged = [entry["debug"].get("outcome") for entry in converted if "debug" in entry]
    if debugged:
        counts = Counter(outcome or "not tried" for outcome in debugged)
        print(f"of {len(debugged)} on the debugging kernel: {', '.join(f'{n} {what}' for what, n in counts.items())}")
    # Fixes that do not compile alone, are not built or change nothing that runs say nothing about livepatches.
    able = [entry for entry in entries if entry["class"] in {"converted", "refused"}]
    share = len(loaded) / len(able) if able else 1.0
    print(f"of {len(able)} that compile, change code and are safe in layout, {len(loaded)} did so: {share:.1%}")
    for entry in able:
        if not entry["loaded"]:
            print(f"    not {entry['cve']}: {entry['reason']} {entry.get('not_rewritten', '')}")
    for entry in entries:
        if entry["class"] in {"start-up code only", "header"}:
            print(f"    not counted: {entry['cve']}, {entry['class']}: {entry['reason']}")
    blamed_on_nobody = [entry["cve"] for entry in entries if entry["kind"] == Kind.ERROR]
    failed = [entry["cve"] for entry in converted if entry["parents_loaded"] and not entry["loaded"]]
    for what, which in (("ended in an error of ours", blamed_on_nobody), ("failed their trial", failed)):
        if which:
            print(f"{what}: {', '.join(which)}")
    return 1 if blamed_on_nobody or failed or share < GOAL else 0


if __name__ == "__main__":
    sys.exit(main())
