# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a workload in the guest: scripts, programs and tools once, and lists for guest.sh for each case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.abc import Traversable
from importlib.resources import files
from math import ceil

from elivepatch.model.build import PatchedFunction
from elivepatch.trial import cpio
from elivepatch.trial.workload import tools
from elivepatch.trial.workload.choice import Chosen, choose

_PLACE = "trial/workload"
PROGRAMS: Traversable = files("elivepatch.trial.workload").joinpath("programs")
"""Directory of the programs."""

_INTERPRETER = {".pl": ("perl",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The workload of a case. `functions` are counted; `programs` run, in all for `budget_s` seconds.

    `left_out` are the names of programs for which this machine lacks a tool, each with the tool's name.
    """

    functions: tuple[PatchedFunction, ...] = ()
    programs: tuple[Chosen, ...] = ()
    budget_s: float = 0.0
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules of the kernel that the programs need."""
        return tuple(dict.fromkeys(module for one in self.programs for module in one.program.modules))

    @property
    def tools(self) -> frozenset[str]:
        """The tools that the programs call."""
        return frozenset(tool for one in self.programs for tool in _tools(one))


NO_WORKLOAD = Workload()
"""The workload of a livepatch whose functions are not known: nothing runs and nothing is counted."""


def devices(workloads: Iterable[Workload]) -> tuple[str, ...]:
    """Return the options of QEMU for the devices that the programs need, each device once."""
    wanted = dict.fromkeys(device for one in workloads for each in one.programs for device in each.program.devices)
    return tuple(word for device in wanted for word in device.split())


def plan(functions: Sequence[PatchedFunction], budget_s: float) -> Workload:
    """Return the workload for a livepatch that replaces `functions`; no program runs with a budget of 0."""
    chosen = choose(functions) if budget_s > 0 else ()
    lacking = {one.program.name: sorted(tools.missing(_tools(one))) for one in chosen}
    return Workload(
        functions=tuple(functions),
        programs=tuple(one for one in chosen if not lacking[one.program.name]),
        budget_s=budget_s,
        left_out=tuple((name, missing[0]) for name, missing in lacking.items() if missing),
    )


def shared(workloads: Iterable[Workload]) -> list[cpio.CpioEntry]:
    """Return the files that all workloads of a guest share, none if there is nothing to run or to count."""
    wanted = list(workloads)
    if not any(one.functions for one in wanted):
        return []
    here = files("elivepatch.trial.workload")
    entries = [cpio.directory(_PLACE)]
    entries += [cpio.file(f"{_PLACE}/{name}", here.joinpath(name).read_bytes()) for name in ("guest.sh", "start.sh")]
    used = frozenset(tool for one in wanted for tool in one.tools)
    if any(one.programs for one in wanted):
        entries.append(cpio.directory(f"{_PLACE}/programs"))
        names = sorted(one.name for one in PROGRAMS.iterdir() if one.is_file())  # they call each other
        entries += [cpio.file(f"{_PLACE}/programs/{name}", PROGRAMS.joinpath(name).read_bytes()) for name in names]
    return entries + tools.pack(used)


def of_case(place: str, workload: Workload, modules: Sequence[str]) -> list[cpio.CpioEntry]:
    """Return the lists of one case; `modules` are those to load for the programs, in their order."""
    if not workload.functions:
        return []
    lines = [" ".join([one.program.name, one.program.file, *one.arguments]) for one in workload.programs]
    counted = [f"{number:03} {function.name}" for number, function in enumerate(workload.functions)]
    lists = {
        "programs": lines,
        "modules": modules,
        "functions": counted,
        "budget_s": [str(ceil(workload.budget_s))],
    }
    return [
        cpio.directory(f"{place}/tasks"),
        *(
            cpio.file(f"{place}/tasks/{name}", "".join(f"{line}\n" for line in content).encode())
            for name, content in lists.items()
        ),
    ]


def _tools(chosen: Chosen) -> tuple[str, ...]:
    suffix = chosen.program.file[chosen.program.file.rfind(".") :]
    return (*chosen.program.tools, *_INTERPRETER.get(suffix, ()))
