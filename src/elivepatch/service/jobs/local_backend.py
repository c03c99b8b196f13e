# SPDX-License-Identifier: GPL-2.0-or-later
"""The build backend of this machine: its bases, toolchains, builders and trials."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from elivepatch.advisory.exposure.changelog import read_changelog
from elivepatch.advisory.exposure.sources import KernelSources, source_map, vanilla_of
from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.custom import CustomMaker
from elivepatch.build.base.provenance import distribution_changelog, materials_of, package_version, source_files
from elivepatch.build.base.stock import StockMaker
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.base.toolchain import Toolchains
from elivepatch.build.builders.common import BuildContext, BuildSteps
from elivepatch.build.builders.select import VERSIONS, build_with_selected
from elivepatch.build.providers.choice import chosen_providers
from elivepatch.build.providers.packages import PackagesProvider
from elivepatch.build.providers.provision import described, provide, transcript
from elivepatch.build.providers.source import Declared, read_declared
from elivepatch.build.sample.fidelity import prove_base
from elivepatch.build.sandbox.cgroup import own_group
from elivepatch.build.sandbox.scratch import job_directory, sweep_jobs
from elivepatch.files.digest import sha256, sha256_json
from elivepatch.files.signature import signature_of_all
from elivepatch.model.build import BuildOutcome, BuildRequest, Livepatch, Note, PatchedFunction
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.model.provenance import Origin
from elivepatch.model.trial import DebugTrial, Expectation, TrialReport
from elivepatch.process import Cancellation
from elivepatch.service.jobs.step_process.messages import Recipe
from elivepatch.service.jobs.trials.debug_kernel import find_debug_kernel, make_debug_kernel
from elivepatch.service.jobs.trials.debug_trial import no_debug_kernel, try_on_debug_kernel
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import EarlierLivepatch
from elivepatch.trial.predicates.program import PredicateCompiler, compiled
from elivepatch.trial.qemu import Programs
from elivepatch.trial.run import run_trial

DEBUG_NAME = "livepatch_debug"
"""Name of every livepatch for a debugging kernel: none leaves its trial."""

KEPT_KERNELS = 3
"""Kernels whose tables stay in memory."""

_Kept = TypeVar("_Kept")


class LocalBackend:
    """Builds and tries livepatches with what is below `settings.cache_dir`."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.archive = Archive(settings.cache_dir / "archive")
        self.toolchains = Toolchains(settings.cache_dir / "toolchains", self.archive)
        self.bases = Bases(settings.cache_dir / "bases")
        # Apart from the bases, so that no host is offered them.
        self.debug_kernels = Bases(settings.cache_dir / "debug-kernels")
        # Each keeps the tables of a whole kernel, up to some 100 MiB, so only those of the last few kernels stay.
        self._known: OrderedDict[Digest, Base] = OrderedDict()
        self._sources: OrderedDict[Digest, KernelSources] = OrderedDict()

    @classmethod
    def again(
        cls, *, cache_dir: str, jobs: str, workload_s: str, providers: str, sources: str, packages: str
    ) -> LocalBackend:
        """Return the backend that `recipe` describes."""
        return cls(
            ServerSettings(
                cache_dir=Path(cache_dir), jobs=int(jobs), workload_s=float(workload_s), providers=providers,
                sources=sources, packages=packages,
            )
        )  # fmt: skip

    def recipe(self) -> Recipe:
        """Return the way to make the same backend in another process."""
        names = ("cache_dir", "jobs", "workload_s", "providers", "sources", "packages")
        words = {name: str(getattr(self._settings, name)) for name in names}
        return Recipe(factory=f"{__name__}:{type(self).__name__}.again", words=words)

    def sweep(self) -> None:
        """Remove the directories of killed processes; a living process holds a lock on its own."""
        # Now, while this process is alone in its control group: later no group below it may bound memory.
        own_group()
        sweep_jobs(self._scratch_directory)
        self.archive.sweep()
        # An unfinished base has 98,000 files: the server does not wait for their end.
        for bases in (self.bases, self.debug_kernels):
            threading.Thread(target=bases.sweep, name="sweep", daemon=True).start()

    def close(self) -> None:
        """Do nothing: no process of this backend runs between two calls."""

    def maker(self, progress: Progress = silent) -> StockMaker:
        """Return what makes stock bases here."""
        return StockMaker(self.archive, self.base_context(progress))

    def custom_maker(self, progress: Progress = silent) -> CustomMaker:
        """Return what makes custom bases here."""
        return CustomMaker(self.archive, self.base_context(progress))

    def debug_kernel(self, base: Base) -> Base | None:
        """Return the debugging kernel of a base, None if there is none."""
        return find_debug_kernel(self.debug_kernels, base)

    def make_debug_kernel(self, base: Base, progress: Progress = silent) -> Base:
        """Return the debugging kernel of a base; it is built if it is missing."""
        self.debug_kernels.directory.mkdir(parents=True, exist_ok=True)
        context = BaseContext(self.toolchains, self.debug_kernels, self._settings.jobs, prove_base, progress)
        return make_debug_kernel(self.archive, context, base)

    def base_context(self, progress: Progress = silent) -> BaseContext:
        """Return where bases are made."""
        return BaseContext(self.toolchains, self.bases, self._settings.jobs, prove_base, progress)

    def make_base(
        self,
        asked: KernelRequest,
        *,
        pushed: Path,
        log: Path,
        progress: Progress,
        cancellation: Cancellation,  # noqa: ARG002 - a cancelled step's process is ended
    ) -> KernelIdentity:
        """Make the base of a kernel, unless it is there, and write what was done to `log`."""
        with transcript(log, progress) as told, self._scratch() as scratch:
            told(Event(stage="base", message=described(asked)))
            context = self.base_context(told)
            providers = chosen_providers(
                self._settings.providers,
                self._settings.sources,
                self._settings.packages,
                archive=self.archive,
                context=context,
                pushed=pushed,
                work_dir=scratch,
            )
            return provide(asked, providers, context.present(asked.release)).identity

    def make_from_packages(
        self, asked: KernelRequest, directory: Path, declared: Sequence[Declared], progress: Progress
    ) -> Base:
        """Return the base of a kernel, made from the packages in a directory unless it is there."""
        with self._scratch() as scratch:
            context = self.base_context(progress)
            sources = self._settings.sources
            known = (*declared, *(read_declared(Path(sources)) if sources else ()))
            provider = PackagesProvider(CustomMaker(self.archive, context), known, directory, scratch)
            return provide(asked, [provider], context.present(asked.release))

    @property
    def cache_dir(self) -> Path:
        """The directory of all that can be made again."""
        return self._settings.cache_dir

    def base(self, release: str) -> Base:
        """Return a base, the same object again while it is unchanged, so that its tables are read once."""
        found = self.bases.get(release)
        return _kept(self._known, found.digest, lambda: found)

    def revision(self) -> str:
        """Return a digest of the state of all files that describe bases and toolchains, without reading them."""
        descriptions = [*self.bases.directory.glob("*/base.json"), *self.toolchains.directory.glob("*/toolchain.json")]
        return signature_of_all(descriptions)

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that can be built for."""
        return [base.identity for base in self.bases.list()]

    def sources(self, release: str) -> KernelSources:
        """Return the sources of a kernel, the same object again while base and builder are unchanged."""
        base = self.base(release)
        builder = self.facts(release)
        return _kept(self._sources, builder, lambda: self._read_sources(base, builder))

    def _read_sources(self, base: Base, builder: Digest) -> KernelSources:
        units = base.units
        text = distribution_changelog(base)
        changelog = read_changelog(text) if text is not None else None
        return KernelSources(
            release=base.release,
            build_id=base.identity.build_id,
            vanilla=vanilla_of(base.release, base.version),
            package_version=base.version if base.kind == "stock" else "",
            builder=builder,
            sources=source_map(
                ((unit.source, unit.parents) for unit in units.by_source.values()),
                units.includers,
                source_files(base),
            ),
            changelog=changelog if changelog is not None and changelog.version == package_version(base) else None,
        )

    def encoded_sources(self, release: str) -> bytes:
        """Return the sources of a kernel, encoded."""
        return self.sources(release).encode()

    def base_patches(self, release: str) -> Mapping[str, Digest]:
        """Return the patches that a kernel's source had before it was built, by name."""
        return self.base(release).base_patches

    def facts(self, release: str) -> Digest:
        """Return the digest of everything but the request that decides the bytes of a module."""
        return sha256_json([VERSIONS, self.base(release).digest, self.toolchains.helper().digest])

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
        """Build the module inside `work_dir` and write the output of tools to `log`."""
        base = self.base(request.release)
        name = f"livepatch_{build_key[:12]}"
        with self._scratch() as scratch:
            printed = scratch / "log"
            context = BuildContext(
                base=base,
                toolchains=self.toolchains,
                jobs=self._settings.jobs,
                log=printed,
                progress=progress,
                cancellation=cancellation,
                tenant=tenant,
            )
            (scratch / "work").mkdir()
            try:
                outcome = build_with_selected(request, context, name=name, work_dir=scratch / "work")
            finally:
                if printed.exists():
                    shutil.copyfile(printed, log)
            if outcome.module is None:
                return outcome
            module = work_dir / f"{name}.ko"
            shutil.copyfile(outcome.module, module)
        if base.claimed_build_id is not None:
            outcome = replace(outcome, notes=(*outcome.notes, _unproved(base)))
        content = module.read_bytes()
        livepatch = Livepatch(
            name=name,
            digest=sha256(content),
            size_bytes=len(content),
            kernel=base.identity,
            build_key=build_key,
            functions=outcome.functions,
            notes=outcome.notes,
            seconds=outcome.seconds,
            origin=self._origin(base, outcome),
        )
        return replace(outcome, livepatch=livepatch, module=module)

    def _origin(self, base: Base, outcome: BuildOutcome) -> Origin:
        sample = {"sample": base.fidelity["identical"]} if base.fidelity else {}
        return Origin(
            version=version("elivepatch"),
            builders=outcome.builders,
            checks=sample | outcome.checks,
            materials=materials_of(base, self.toolchains.helper()),
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
        """Boot the livepatch's kernel in a VM, try the module there, and write the guest's console to `console`.

        It is also loaded over `earlier`, a livepatch that it replaces, if there is one.
        """
        base = self.base(livepatch.kernel.release)
        predicates = self.predicates(base, expectations, cancellation)
        try:
            return run_trial(
                kernel=guest_kernel(base),
                livepatch=module,
                livepatch_name=livepatch.name,
                parents=livepatch.modules,
                expectations=expectations,
                work_dir=work_dir,
                cache_dir=self._settings.cache_dir,
                functions=livepatch.functions,
                workload_s=self._settings.workload_s,
                earlier=earlier,
                progress=progress,
                cancellation=cancellation,
                predicates=predicates,
                programs=self.guest_programs(),
            )
        finally:
            _keep_console(work_dir, console)

    def debug_trial(
        self,
        request: BuildRequest,
        replaced: Sequence[PatchedFunction],
        *,
        work_dir: Path,
        console: Path,
        progress: Progress,
        cancellation: Cancellation,
        tenant: str,
    ) -> DebugTrial:
        """Build the series for the debugging kernel of the base, try it there, and write that console to `console`."""
        kernel = self.debug_kernel(self.base(request.release))
        if kernel is None:
            return no_debug_kernel(request.release)
        with self._scratch() as scratch:
            context = BuildContext(
                base=kernel, toolchains=self.toolchains, jobs=self._settings.jobs, progress=progress,
                cancellation=cancellation, tenant=tenant,
            )  # fmt: skip
            try:
                return try_on_debug_kernel(
                    request, replaced, context, name=DEBUG_NAME, build_dir=scratch, work_dir=work_dir,
                    cache_dir=self._settings.cache_dir, workload_s=self._settings.workload_s,
                    programs=self.guest_programs(),
                )  # fmt: skip
            finally:
                _keep_console(work_dir, console)

    def guest_programs(self) -> Programs:
        """Return the programs of guests, which run as confined as a build."""
        return Programs(helper=self.toolchains.helper().root)

    def predicates(
        self, base: Base, expectations: Sequence[Expectation], cancellation: Cancellation | None = None
    ) -> dict[Digest, bytes]:
        """Return the programs of predicates in C, made by the compiler of the base's kernel."""

        def compiler() -> PredicateCompiler:
            sandbox = BuildSteps(base=base, toolchains=self.toolchains, jobs=1).sandbox()
            return PredicateCompiler(sandbox, self.toolchains.of(base).compiler)

        with self._scratch() as scratch:
            return compiled(expectations, compiler, scratch=scratch, cancellation=cancellation)

    @property
    def _scratch_directory(self) -> Path:
        return self._settings.cache_dir / "scratch"

    def _scratch(self) -> AbstractContextManager[Path]:
        return job_directory(self._scratch_directory)


def _kept(cache: OrderedDict[Digest, _Kept], key: Digest, make: Callable[[], _Kept]) -> _Kept:
    """Return what is kept under `key`, made if it is missing; the entry that was unused for longest goes first."""
    if key not in cache:
        cache[key] = make()
    cache.move_to_end(key)
    while len(cache) > KEPT_KERNELS:
        cache.popitem(last=False)
    return cache[key]


def _keep_console(work_dir: Path, console: Path) -> None:
    if (work_dir / "console.log").is_file():
        shutil.copyfile(work_dir / "console.log", console)


def _unproved(base: Base) -> Note:
    return Note(
        code="unproved",
        message=f"The base of {base.release} was accepted without proof that it is the host's kernel: its own build-id "
        f"is {base.build_id}.",
    )
