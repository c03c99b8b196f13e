# SPDX-License-Identifier: GPL-2.0-or-later
"""Input of a trial: the kernel to boot and the livepatches to try on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.permanence import stays_loaded
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.trial import Expectation
from elivepatch.trial.workload.guest_files import NO_WORKLOAD, Workload

_MODULE_NAME = re.compile(r"[A-Za-z0-9_-]{1,55}")  # MODULE_NAME_LEN of include/linux/moduleparam.h, less the final zero

_BUILD_ID = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestKernel:
    """A built kernel as its packages ship it.

    `image` is the vmlinuz; `modules_dir` is lib/modules/RELEASE with kernel/ and modules.builtin in it. `build_id` is
    that of the kernel that the livepatches were built for, in lower-case hexadecimal. `vmlinux` has its symbols;
    without it, the guest cannot be looked at from outside. `parameters` are words of its command line beside those of
    every trial.
    """

    release: str
    build_id: str
    image: Path
    modules_dir: Path
    vmlinux: Path | None = None
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _BUILD_ID.fullmatch(self.build_id):
            raise UsageError(
                "build-id",
                f"{self.build_id[:80]!r} is not a build-id.",
                advice="`file vmlinux` prints it as BuildID: 16 to 64 hexadecimal digits in lower case.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierLivepatch:
    """The livepatch that a host has live before it loads the one on trial, which replaces it.

    `name` is the name of its module, `parents` are the modules whose functions it replaces.
    """

    livepatch: Path
    name: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCase:
    """One livepatch to try.

    `name` is the name of its module. `parents` are the modules whose functions it replaces; they are loaded before it,
    with their dependencies. The kernel never unloads one that `stays`: it is loaded once, and what it has armed may
    fire after it was disabled. `workload` is what runs and is counted. It `needs` the modules whose exported symbols it
    uses. It is also loaded over `earlier`, unless it stays. `predicates` are the programs of its predicates in C, by
    the digests of their sources.
    """

    livepatch: Path
    name: str
    parents: Sequence[str] = ()
    expectations: Sequence[Expectation] = ()
    stays: bool = False
    workload: Workload = NO_WORKLOAD
    needs: frozenset[str] = frozenset()
    earlier: EarlierLivepatch | None = None
    predicates: Mapping[Digest, bytes] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        livepatch: Path,
        name: str,
        parents: Sequence[str],
        expectations: Sequence[Expectation],
        workload: Workload,
        earlier: EarlierLivepatch | None = None,
        predicates: Mapping[Digest, bytes] | None = None,
    ) -> TrialCase:
        """Return the case of a module, which says itself if it stays and which modules it needs."""
        stays, needs = False, frozenset[str]()
        try:
            module = ElfFile(livepatch)
            stays = stays_loaded(module)
            listed = ",".join(module.modinfo.get("depends", ())).replace("-", "_")
            needs = frozenset(filter(None, listed.split(",")))
        except EnvironmentFault:
            pass  # it is no module: the kernel will say so
        return cls(
            livepatch=livepatch, name=name, parents=parents, expectations=expectations, stays=stays, needs=needs,
            workload=workload, earlier=earlier,
            predicates=predicates or {},
        )  # fmt: skip


def module_name(text: str) -> str:
    """Return a module's name as the kernel spells it, with `_` for `-`; raises UsageError if it is not a name."""
    if not _MODULE_NAME.fullmatch(text):
        raise UsageError(
            "module-name",
            f"{text[:80]!r} is not the name of a kernel module.",
            advice="A module's name has up to 55 letters, digits, `_` and `-`.",
        )
    return text.replace("-", "_")
