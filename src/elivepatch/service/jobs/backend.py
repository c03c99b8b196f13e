# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface between jobs and builders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from elivepatch.model.build import BuildOutcome, BuildRequest, Livepatch, PatchedFunction
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Progress
from elivepatch.model.trial import DebugTrial, Expectation, TrialReport
from elivepatch.process import Cancellation
from elivepatch.service.jobs.step_process.messages import Recipe
from elivepatch.trial.case import EarlierLivepatch


class BuildBackend(Protocol):
    """Builds livepatches and tries them, and makes the bases for them.

    Each method is called from threads, `build` and the trials from one at a time, `make_base` from another.

    An expected failure of a series is in the answer (`BuildOutcome.problem`, `TrialReport.problems`) or in an
    ElivepatchError; any other exception is an error of ours. Once `cancellation` is set, they return or
    raise within three seconds; their answer is ignored then.
    """

    def recipe(self) -> Recipe:
        """Return the way to make the same backend in another process."""

    def sweep(self) -> None:
        """Remove the files that killed processes left behind; called once, before anything is built."""

    def close(self) -> None:
        """End the processes that `sweep` started; the last call."""

    def revision(self) -> str:
        """Return a text that changes with the kernels and with `facts` of any; cheap, each request asks for it."""

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that can be built for."""

    def encoded_sources(self, release: str) -> bytes:
        """Return the sources of a kernel (`KernelSources.encode`); cheap the second time.

        Raises UsageError or EnvironmentFault, for example with the code `kernel-unknown`.
        """

    def base_patches(self, release: str) -> Mapping[str, Digest]:
        """Return the patches that a kernel's source had before it was built, by name; none for a stock kernel.

        Raises as `encoded_sources` does.
        """

    def facts(self, release: str) -> Digest:
        """Return the digest of all that determines, together with the series, the bytes of a module.

        Raises UsageError or EnvironmentFault, for example with the code `kernel-unknown`.
        """

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
        """Build the module inside `work_dir`, an empty directory of its own, and write the output of tools to `log`."""

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
        """Build the series for the debugging kernel of the base, try it there, and write that console to `console`.

        `replaced` are the functions of the livepatch that was built for the host.
        """

    def make_base(
        self,
        asked: KernelRequest,
        *,
        pushed: Path,
        log: Path,
        progress: Progress,
        cancellation: Cancellation,
    ) -> KernelIdentity:
        """Make the base of a kernel, unless it is there, and write what was done to `log`.

        `pushed` is a directory with the archives that the host sent, files.tar.gz and source.tar.gz. Raises
        ElivepatchError, for example with the code `kernel-not-provided`; no unfinished base is ever offered.
        """
