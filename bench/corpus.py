# SPDX-License-Identifier: GPL-2.0-or-later
"""Build every patch of a folder for one stock kernel, and load, revert and reload all that become livepatches.

What cannot be a livepatch is built as `check --rewrite` proposes it, where it does, and told as such.

usage: corpus.py [DIR] [--kernel RELEASE]

DIR holds one .patch a fix, named after its CVE (default: ../shared/data/cve-fixes-6.1.176). Writes bench/corpus.json: a
list with `cve, file, class, code, reason, functions, seconds, loaded` for each, and where a rewrite was asked for
`rewritten` and its `steps`, or why there is none. Ends with status 1 where a patch ended in an error that is nobody's,
where a livepatch whose parent loads did not pass its trial, or where fewer than 95 % of the patches that compile,
change code and are safe in layout became livepatches that were loaded, reverted and loaded again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from elivepatch.build.base.store import VMLINUX
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.select import build_with_selected
from elivepatch.model.build import BuildOutcome, BuildRequest
from elivepatch.model.errors import ElivepatchError, Kind
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.parse import read_series
from elivepatch.service.jobs.local_backend import LocalBackend, guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import TrialCase
from elivepatch.trial.run import run_trials

HERE = Path(__file__).parent
GOAL = 0.95
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
    scratch = cache / "scratch"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="corpus-", dir=scratch) as name:
        top = Path(name)
        top.chmod(0o755)
        entries, cases = [], []
        for number, path in enumerate(patches):
            work_dir = top / str(number)
            work_dir.mkdir()
            livepatch = "livepatch_" + "".join(c if c.isalnum() else "_" for c in path.stem.lower())[:40]
            series = PatchSeries((SourcePatch(path.name, path.read_bytes()),))
            started = time.monotonic()
            context = BuildContext(base=base, toolchains=backend.toolchains, jobs=os.cpu_count() or 1)
            first, outcome = built(context, series, livepatch, work_dir)
            entry = described(path.stem, series, outcome, time.monotonic() - started) | rewriting(first)
            entries.append(entry)
            print(f"{entry['cve']:18} {entry['seconds']:5.1f} s  {entry['class']:22} {entry['reason']}", flush=True)
            if outcome.module is not None:
                parents = sorted({function.object for function in outcome.functions} - {VMLINUX})
                cases.append(
                    (entry, TrialCase(livepatch=outcome.module, name=livepatch, parents=parents, expectations=()))
                )
        print(f"\nloading, reverting and reloading {len(cases)} livepatches on {base.release}", flush=True)
        reports = run_trials(
            kernel=guest_kernel(base), cases=[case for _, case in cases], work_dir=top / "trials", cache_dir=cache,
            timeout_s=300,
        )  # fmt: skip
        for (entry, case), report in zip(cases, reports, strict=True):
            entry["loaded"] = report.passed and report.reloaded and not report.unloaded_parents
            entry["parents_loaded"] = not report.unloaded_parents
            if not report.passed:
                entry["trial"] = [problem.as_dict() for problem in report.problems]
                print(f"{entry['cve']}: {case.name}: {report.problems[0].message}")
    (HERE / "corpus.json").write_text(json.dumps(entries, indent=1) + "\n")
    return summary(entries)


def built(context: BuildContext, series: PatchSeries, name: str, work_dir: Path) -> tuple[BuildOutcome, BuildOutcome]:
    """Return what a check with a rewrite says of a series, and what comes of building that or what it proposes."""
    places = [work_dir / which for which in ("check", "build")]
    for place in places:
        place.mkdir(mode=0o755)
    request = BuildRequest(release=context.base.release, series=series, check_only=True, rewrite=True)
    checked = build_with_selected(request, context, name=name, work_dir=places[0])
    proposal = checked.proposal
    if proposal is not None and not proposal.patch:
        return checked, checked
    if proposal is not None:
        series = PatchSeries((SourcePatch("proposed.patch", proposal.patch.encode()),))
    request = BuildRequest(release=context.base.release, series=series)
    return checked, build_with_selected(request, context, name=name, work_dir=places[1])


def rewriting(checked: BuildOutcome) -> dict[str, Any]:
    """Return what is to be kept of a rewrite."""
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
    for entry in converted:
        if entry["rewritten"]:
            print(f"{entry['cve']} was rewritten: {entry['before']}")
            print("".join(f"    {step}\n" for step in entry["steps"]), end="")
    # What does not compile alone, is not built or changes nothing that runs says nothing about livepatches.
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
