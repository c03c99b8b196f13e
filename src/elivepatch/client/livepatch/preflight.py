# SPDX-License-Identifier: GPL-2.0-or-later
"""Preflight: the last checks of a verified module on this host, just before it is loaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from elivepatch.client.host.doctor import ipmodify_functions
from elivepatch.client.host.findings import Finding, fine, note, stop
from elivepatch.client.host.identity import loaded_modules
from elivepatch.client.host.machine import Host, Machine
from elivepatch.client.host.modules import VerifiedModule, holding_themselves, is_pinned
from elivepatch.client.host.reload import reload_finding
from elivepatch.client.host.tasks import standing_in, way_out
from elivepatch.client.livepatch.inventory import counted
from elivepatch.client.livepatch.live_state import LiveState
from elivepatch.client.proof.policy import proof_findings
from elivepatch.settings import ClientSettings
from elivepatch.trust.statement import Statement

_STACKS_WITHIN_S = 2.0


def preflight(
    machine: Machine, live_state: LiveState, module: VerifiedModule, settings: ClientSettings
) -> tuple[Finding, ...]:
    """Check a verified livepatch against the host that is to load it; takes three seconds at most."""
    host, statement = machine.host, module.statement
    return (
        fine("fits", f"{statement.name} is signed and made for this kernel: {statement.release}"),
        _name(host, live_state, statement),
        *proof_findings(statement, settings, machine.clock.now()),
        _others(host, live_state, statement),
        _functions(host, statement),
        _objects(host, statement),
        _reload(host, module),
        _tracers(host, live_state, statement),
        _tasks(machine, statement),
    )


def lasting(module: Path, statement: Statement) -> Finding:
    """Check if the kernel will keep the module of a livepatch that was taken out."""
    from elivepatch.kernel.elf import ElfFile
    from elivepatch.kernel.permanence import stays_loaded

    if stays_loaded(ElfFile(module)):
        return note(
            "stays-in-memory",
            f"{statement.name} hands out addresses in itself: after it is taken out, its module stays until a reboot.",
            "It can be taken out at any time; `elivepatch apply` can load a copy of it in the same boot.",
        )
    return fine("lasting", "its module can be unloaded")


def _name(host: Host, live_state: LiveState, statement: Statement) -> Finding:
    if is_pinned(host, statement.name):
        return stop(
            "module-pinned",
            f"{statement.name} was live before in this boot, and its module stays in memory until a reboot.",
            "Use `elivepatch apply` with its source patches, which has the server make a copy of it; or reboot.",
        )
    if any(one.name == statement.name for one in live_state.kernel):
        return stop(
            "name-taken",
            f"A livepatch called {statement.name} is live already.",
            "Run `elivepatch list`; the server gives every build its own name.",
        )
    if any(module.name == statement.name and module.uses for module in loaded_modules(host)):
        return stop(
            "name-taken",
            f"A module called {statement.name} is loaded and in use.",
            f"Unload it with `elivepatch unload {statement.name}`.",
        )
    return fine("name", f"no module is called {statement.name}")


def _others(host: Host, live_state: LiveState, statement: Statement) -> Finding:
    held = holding_themselves(host, [one.name for one in live_state.kernel])
    if statement.replace and held:
        return stop(
            "callbacks-live",
            f"{held[0]} has written pointers into itself, and its replacement would leave them behind.",
            f"Unload it first (`elivepatch unload {held[0]}`), then run the command again.",
        )
    if statement.replace and live_state.foreign:
        names = ", ".join(one.name for one in live_state.foreign)
        return stop(
            "foreign-livepatch",
            f"{names} is live and was not loaded by elivepatch; {statement.name} would replace it.",
            "Put its source patch into your series and unload it, or use --stack.",
        )
    ours = {(function.object, function.name) for function in statement.functions}
    shared = sorted(
        {
            one.name
            for one in live_state.kernel
            if not statement.replace and any((function.object, function.name) in ours for function in one.functions)
        }
    )
    if shared:
        return note(
            "functions-shared",
            f"{', '.join(shared)} replaces some of the same functions: the newer one wins.",
            "Leave --stack out to build one livepatch that carries everything.",
        )
    return fine("others", "no other livepatch conflicts with it")


def _functions(host: Host, statement: Statement) -> Finding:
    """Check that kallsyms has each function as often as the livepatch expects (old_sympos)."""
    wanted: dict[tuple[str, str], int] = {}
    for function in statement.functions:
        # Functions of one name differ by their position: the highest position is how many there must be.
        key = function.object, function.name
        wanted[key] = max(wanted.get(key, 0), function.sympos)
    seen: Counter[tuple[str, str]] = Counter()
    try:
        with host.path("proc/kallsyms").open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                fields = line.split()
                if len(fields) >= 3 and fields[1] in "tTwW":
                    seen_as = (fields[3].strip("[]") if len(fields) > 3 else "vmlinux", fields[2])
                    seen[seen_as] += seen_as in wanted
    except OSError:
        return fine("functions", "it is not known if the kernel has its functions: no /proc/kallsyms")
    loaded = {"vmlinux", *(module.name for module in loaded_modules(host))}
    for (place, name), position in wanted.items():
        found = seen[place, name]
        if place in loaded and (found < max(position, 1) or (position == 0 and found > 1)):
            return stop(
                "function-missing",
                f"The running kernel has {name} {found} times in {place}, the livepatch expects another number.",
                "The kernel differs from its release: compare its packages with the server's, then build again.",
            )
    return fine("functions", f"the kernel has all {len(statement.functions)} functions")


def _objects(host: Host, statement: Statement) -> Finding:
    loaded = {"vmlinux", *(module.name for module in loaded_modules(host))}
    waiting = sorted({function.object for function in statement.functions} - loaded)
    if waiting:
        return note(
            "object-not-loaded",
            f"{', '.join(waiting)} is not loaded: the change takes effect there when it is loaded.",
            "Nothing needs to be done.",
        )
    return fine("objects", "everything it changes is loaded")


def _reload(host: Host, module: VerifiedModule) -> Finding:
    if not module.relocated:
        return fine("module-reload", "it changes no module that could not be loaded again")
    return reload_finding(host, module.relocated)


def _tracers(host: Host, live_state: LiveState, statement: Statement) -> Finding:
    held = ipmodify_functions(host) or {}
    ours = {function.name for one in live_state.kernel for function in one.functions}
    hit = sorted({function.name for function in statement.functions} & (set(held) - ours))
    if hit:
        return stop(
            "tracer-holds",
            f"{hit[0]} is redirected by a tracer already, so the kernel would refuse a livepatch of it.",
            "Stop the tracer (a kprobe with a post handler, a BPF program); `elivepatch doctor` lists the functions.",
        )
    return fine("tracers", "no tracer holds its functions")


def _tasks(machine: Machine, statement: Statement) -> Finding:
    functions = {function.name for function in statement.functions}
    holders = standing_in(machine.host, machine.clock, functions, within_s=_STACKS_WITHIN_S)
    if holders:
        mains = [one for one in holders if one.in_its_main]
        advice = way_out(mains or holders)
        if not any(one.kernel_thread for one in holders):
            advice = "Restart them first, or wait: the transition is reversed if it takes longer than --deadline."
        first = (mains or holders)[0]
        return note(
            "tasks-inside",
            f"The transition will wait for {counted(len(holders), 'task')} in these functions now, first {first}.",
            advice,
        )
    return fine("tasks", "no task stands in its functions")
