# SPDX-License-Identifier: GPL-2.0-or-later
"""A build backend that builds nothing: the lines of a patch decide what happens.

The backend understands these lines: `sleep SECONDS` (in the build), `trial-sleep SECONDS`, `verdict`, `compile-error`,
`broken-environment`, `explode`, `disk-full`, `die-once`, `die-always`, `trial-fails`, `deaf` (ignores its
cancellation), `log BYTES`, `fill` (writes until the disk is full), `spin` (computes and lets no other thread run),
`unprovable` (makes a livepatch that replaces nothing, of which there can be no proof), `segfault`, `exit` (leaves the
process at once), `hog MIB` (takes that much memory and keeps it), `kill-server-once` and `kill-server-always` (kills
the parent of the step process).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from proofs import ORIGIN

from elivepatch.advisory.exposure.changelog import Changelog
from elivepatch.advisory.exposure.sources import KernelSources
from elivepatch.advisory.exposure.version import KernelVersion
from elivepatch.model.build import BuildOutcome, BuildRequest, Livepatch, Note, PatchedFunction
from elivepatch.model.errors import EnvironmentFault, Kind, Problem
from elivepatch.model.kernel import BuildId, Digest, KernelIdentity, Release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Event, Progress
from elivepatch.model.trial import (
    CalledFunction,
    DebugTrial,
    Expectation,
    Observation,
    OverEarlier,
    TrialOutcome,
    TrialReport,
)
from elivepatch.process import Cancellation
from elivepatch.service.jobs.step_process.messages import Recipe
from elivepatch.trial.case import EarlierLivepatch

KERNEL = KernelIdentity(
    release=Release("6.1.0-50-cloud-amd64"),
    build_id=BuildId("ab" * 20),
    arch="x86_64",
    config_digest=Digest("cd" * 32),
    compiler="gcc (Debian 12.2.0-14+deb12u1) 12.2.0",
)
FUNCTION = PatchedFunction(object="vmlinux", name="meminfo_proc_show", sympos=0, source="fs/proc/meminfo.c")
SOURCES = KernelSources(
    release=KERNEL.release,
    build_id=KERNEL.build_id,
    vanilla=KernelVersion(branch=(6, 1), level=176),
    package_version="6.1.176-1",
    builder=Digest("ef" * 32),
    sources={"fs/proc/meminfo.c": ("vmlinux",), "net/8021q/vlan.c": ("8021q",), "drivers/lamp/wick.c": ()},
    changelog=Changelog(version="6.1.176-1", closed={}, elsewhere={}, own={}, reverted={}),
)

UNPROVIDED = "-unprovided"
"""Ending of the releases of kernels that no provider has."""

BASE_PATCHES = {"our-driver.patch": Digest("12" * 32), "our-tuning.patch": Digest("34" * 32)}


_HOGGED: list[bytes] = []


class FakeBackend:
    """Writes every run to the file `journal`, so that tests can count runs across restarts of a server."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._made = journal.with_name(f"{journal.name}.kernels")

    def runs(self, what: str) -> int:
        """Number of started runs of `what` (build or trial)."""
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        return sum(line.startswith(what) for line in lines)

    @classmethod
    def again(cls, journal: str) -> FakeBackend:
        return cls(Path(journal))

    def recipe(self) -> Recipe:
        return Recipe(
            factory="fake_backend:FakeBackend.again",
            words={"journal": str(self._journal)},
            search=(str(Path(__file__).parent),),
        )

    def close(self) -> None:
        """Do nothing: no process of this backend runs between two calls."""

    def revision(self) -> str:
        return f"{len(self.kernels())} kernels"

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernel that is always there, and those that `make_base` has made."""
        made = self._made.read_text().splitlines() if self._made.exists() else []
        return [KERNEL, *(KernelIdentity(**json.loads(line)) for line in made)]

    def _kernel(self, release: str) -> KernelIdentity:
        for kernel in self.kernels():
            if kernel.release == release:
                return kernel
        raise EnvironmentFault("kernel-unknown", f"There is no base for {release}.", advice="Add it on the server.")

    def encoded_sources(self, release: str) -> bytes:
        kernel = self._kernel(release)
        return replace(SOURCES, release=kernel.release, build_id=kernel.build_id).encode()

    def base_patches(self, release: str) -> dict[str, Digest]:
        self.facts(release)
        return dict(BASE_PATCHES)

    def facts(self, release: str) -> Digest:
        self._kernel(release)
        return Digest(hashlib.sha256(b"fake " + release.encode()).hexdigest())

    def sweep(self) -> None:
        """Do nothing: this backend leaves nothing behind."""

    def build(
        self,
        request: BuildRequest,
        *,
        build_key: Digest,
        work_dir: Path,
        log: Path,
        progress: Progress,
        cancellation: Cancellation,
        tenant: str,
    ) -> BuildOutcome:
        words = _words(request)
        self._note(f"build {build_key}")
        self._note(f"for {tenant}")
        log.write_text(f"compiling\x1b[31m in red\n{'x' * int(words.get('log', '0'))}\n")
        progress(Event(stage="prepare", message="prepares the tree", fraction=0.0))
        if "die-always" in words or ("die-once" in words and self.runs(f"build {build_key}") == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if "kill-server-always" in words or ("kill-server-once" in words and self.runs(f"build {build_key}") == 1):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        _crash(words)
        _wait(float(words.get("sleep", "0")), progress, "compile", cancellation, deaf="deaf" in words)
        _misbehave(words, work_dir)
        if problem := _problem(words):
            return BuildOutcome(problem=problem)
        progress(Event(stage="link", message="links the module", fraction=1.0))
        if request.check_only:
            return BuildOutcome(functions=(FUNCTION,), seconds={"build": 0.25})
        module = work_dir / "livepatch.ko"
        module.write_bytes(b"\x7fELF livepatch of " + build_key.encode() + b"\0" * 5000)
        livepatch = Livepatch(
            name="livepatch_meminfo",
            digest=Digest(hashlib.sha256(module.read_bytes()).hexdigest()),
            size_bytes=module.stat().st_size,
            kernel=self._kernel(request.release),
            build_key=build_key,
            functions=() if "unprovable" in words else (FUNCTION,),
            notes=(Note(code="inlined", message="meminfo_helper is inlined into its caller."),),
            seconds={"build": 0.25},
            origin=replace(ORIGIN, builders=dict.fromkeys(_builders(request), 1)),
        )
        return BuildOutcome(
            livepatch=livepatch,
            module=module,
            functions=livepatch.functions,
            notes=livepatch.notes,
            seconds=livepatch.seconds,
        )

    def trial(
        self,
        livepatch: Livepatch,
        module: Path,
        expectations: Sequence[Expectation],
        *,
        work_dir: Path,
        console: Path,
        progress: Progress,
        cancellation: Cancellation,
        earlier: EarlierLivepatch | None = None,
    ) -> TrialReport:
        self._note(f"trial {livepatch.build_key}")
        assert not any(work_dir.iterdir())
        assert hashlib.sha256(module.read_bytes()).hexdigest() == livepatch.digest
        progress(Event(stage="trial", message="boots the kernel", fraction=None))
        console.write_text("[    0.000000] Linux version 6.1.0-50-cloud-amd64\r\n")
        fails = any(expectation.pattern == "never" for expectation in expectations)
        for expectation in expectations:
            if expectation.command.startswith("sleep "):
                _wait(float(expectation.command.split()[1]), progress, "trial", cancellation, deaf=False)
        return TrialReport(
            release=livepatch.kernel.release,
            build_id=livepatch.kernel.build_id,
            accelerator="tcg",
            over_earlier=OverEarlier(name=earlier.name, result="replaced") if earlier is not None else None,
            observations=tuple(
                Observation(
                    command=expectation.command,
                    pattern=expectation.pattern,
                    before="",
                    during="",
                    after="",
                    met=expectation.pattern != "never",
                )
                for expectation in expectations
            ),
            transition_s=0.5,
            reverted=True,
            reloaded=True,
            clean_log=True,
            seconds=1.5,
            problems=(_of(Kind.FAILURE, "trial-expectation", "An expectation was not met."),) if fails else (),
        )

    def debug_trial(
        self,
        request: BuildRequest,
        replaced: Sequence[PatchedFunction],
        *,
        work_dir: Path,
        console: Path,
        progress: Progress,  # noqa: ARG002
        cancellation: Cancellation,  # noqa: ARG002
        tenant: str,  # noqa: ARG002
    ) -> DebugTrial:
        words = _words(request)
        self._note(f"debug {request.release}")
        assert not any(work_dir.iterdir())
        if "no-debug-kernel" in words:
            return DebugTrial(kernel="", why_not="the server has none")
        console.write_text("[    0.000000] Linux version 6.1.176-debug\r\n")
        if "kasan-report" in words:
            found = _of(Kind.FAILURE, "trial-debug", "BUG: KASAN: slab-use-after-free in meminfo_proc_show.")
            return DebugTrial(kernel="6.1.176-debug", outcome=TrialOutcome.FAILED, problem=found)
        called = tuple(CalledFunction(object=one.object, function=one.name, calls=3) for one in replaced)
        return DebugTrial(kernel="6.1.176-debug", outcome=TrialOutcome.PASSED, functions=called, seconds=2.0)

    def make_base(
        self,
        asked: KernelRequest,
        *,
        pushed: Path,
        log: Path,
        progress: Progress,
        cancellation: Cancellation,
    ) -> KernelIdentity:
        """Make the kernel that `kernels` offers from then on; the distribution of the request says what happens."""
        words = dict([asked.distribution.partition(" ")[::2]])
        self._note(f"base {asked.release}")
        archives = sorted(path.name for path in pushed.iterdir())
        sent = [f"from {name}" for name in archives] + ["with a configuration"] * bool(asked.config)
        log.write_text(" ".join([f"making {asked.release}", *sent]) + "\n")
        _crash(words)
        if "die-once" in words and self.runs(f"base {asked.release}") == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        _wait(float(words.get("sleep", "0")), progress, "base", cancellation, deaf="deaf" in words)
        if "not-provided" in words or asked.release.endswith(UNPROVIDED):
            raise EnvironmentFault("kernel-not-provided", "No provider has it.", advice="Add it.")
        made = replace(KERNEL, release=asked.release, build_id=asked.build_id or KERNEL.build_id)
        with self._made.open("a") as stream:
            stream.write(json.dumps(made.as_dict()) + "\n")
        return made

    def _note(self, line: str) -> None:
        with self._journal.open("a") as stream:
            stream.write(line + "\n")


def _words(request: BuildRequest) -> dict[str, str]:
    lines = [line for patch in request.series.patches for line in patch.content.decode(errors="replace").splitlines()]
    return {word: rest for word, _, rest in (line.partition(" ") for line in lines)}


def _builders(request: BuildRequest) -> list[str]:
    return [request.builder.value, "another"] if request.paranoid else [request.builder.value]


def _of(kind: Kind, code: str, message: str) -> Problem:
    return Problem(code=code, kind=kind, message=message, advice="Read the log.", excerpt="+\tint x;\n")


def _problem(words: dict[str, str]) -> Problem | None:
    if "verdict" in words:
        return _of(Kind.VERDICT, "data-changed", "The series changes initialised data.")
    if "compile-error" in words:
        return _of(Kind.FAILURE, "compile-error", "fs/proc/meminfo.c does not compile.")
    return None


def _crash(words: dict[str, str]) -> None:
    if "segfault" in words:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "exit" in words:
        os._exit(7)
    if "hog" in words:
        _HOGGED.append(b"x" * (int(words["hog"]) << 20))
    if "spin" in words:
        re.match(r"(a|a)*b", "a" * 200)  # holds Python's lock and would take longer than the universe has


def _misbehave(words: dict[str, str], work_dir: Path) -> None:
    if "broken-environment" in words:
        raise EnvironmentFault("program-missing", "bwrap cannot be started.", advice="Install it.")
    if "explode" in words:
        raise KeyError("a secret that must not leave the server")
    if "disk-full" in words:
        raise OSError(errno.ENOSPC, "No space left on device")
    if "fill" in words:
        with (work_dir / "filling").open("wb") as stream:
            while True:
                stream.write(b"\xff" * 65536)
                stream.flush()


def _wait(seconds: float, progress: Progress, stage: str, cancellation: Cancellation, *, deaf: bool) -> None:
    deadline = time.monotonic() + seconds
    step = 0
    while (left := deadline - time.monotonic()) > 0:
        step += 1
        progress(Event(stage=stage, message=f"step {step}", fraction=None))
        if deaf:
            time.sleep(min(left, 0.1))
        elif cancellation.event.wait(min(left, 0.1)):
            raise EnvironmentFault("program-failed", "The compiler was ended.", advice="None.")
