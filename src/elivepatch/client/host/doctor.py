# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of this host: what would keep a livepatch from loading here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from elivepatch.client.host.findings import Finding, fine, note, stop
from elivepatch.client.host.identity import (
    FoundConfig,
    find_config,
    read_build_id,
    read_compiler,
    read_release,
)
from elivepatch.client.host.machine import Host
from elivepatch.client.host.sysfs import Rules, read_livepatches, supported
from elivepatch.kernel.config import KernelConfig, parse_config
from elivepatch.model.errors import HostError, UsageError

_CAP_SYS_MODULE = 16  # include/uapi/linux/capability.h
_TAINT_DIE, _TAINT_FORCED, _TAINT_WARN = 7, 1, 9  # Documentation/admin-guide/tainted-kernels.rst
_KEYRINGS = (".builtin_trusted_keys", ".secondary_trusted_keys", ".machine", ".platform")


def examine(host: Host) -> tuple[Finding, ...]:
    """Check everything that can keep a livepatch from loading; return the findings in the order of the checks."""
    config = _config(host)
    checks: tuple[Callable[[], Finding], ...] = (
        lambda: _privilege(host),
        lambda: _kernel(host),
        lambda: _configuration(host),
        lambda: _livepatching(host, config),
        lambda: _replace(host),
        lambda: _ftrace(host, config),
        lambda: _reliable_stacks(config),
        lambda: _modules_enabled(host),
        lambda: _signing(host, config),
        lambda: _transition(host),
        lambda: _taint(host),
        lambda: _tracers(host),
    )
    return tuple(check() for check in checks)


def enforces_signatures(host: Host) -> str:
    """Return the reason why this kernel refuses unsigned modules, empty if it accepts them."""
    if (host.text("sys/module/module/parameters/sig_enforce") or "").upper() == "Y":
        return "module.sig_enforce is set"
    config = _config(host)
    if config is not None and config.enabled("MODULE_SIG_FORCE"):
        return "CONFIG_MODULE_SIG_FORCE is set"
    level = lockdown_level(host)
    return f"the kernel is locked down ({level})" if level not in {"", "none"} else ""


def lockdown_level(host: Host) -> str:
    """Return none, integrity or confidentiality; empty if the kernel does not show it."""
    found = re.search(r"\[(\w+)\]", host.text("sys/kernel/security/lockdown") or "")
    return found[1] if found else ""


def ipmodify_functions(host: Host) -> dict[str, str] | None:
    """Return the functions that an ftrace user redirects, with ftrace's line for each; None if tracefs is not mounted.

    Only one user may redirect a function (FTRACE_OPS_FL_IPMODIFY); livepatches share that among themselves.
    `enabled_functions` marks them with an `I` (Documentation/trace/ftrace.rst).
    """
    for directory in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
        text = host.text(f"{directory}/enabled_functions")
        if text is not None:
            found = (re.match(r"(\S+) (?:\[\S+\] )?\(\d+\)((?: +[RIDMO])*)", line) for line in text.splitlines())
            return {one[1]: one[0] for one in found if one is not None and "I" in one[2].split()}
    return None


def _config(host: Host) -> KernelConfig | None:
    found = _found_config(host)
    if found is None:
        return None
    try:
        return parse_config(found.content)
    except UsageError:
        return None


def _found_config(host: Host) -> FoundConfig | None:
    try:
        return find_config(host, read_release(host))
    except HostError:
        return None


def _privilege(host: Host) -> Finding:
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)$", host.text("proc/self/status") or "", re.MULTILINE)
    if found and int(found[1], 16) >> _CAP_SYS_MODULE & 1:
        return fine("privilege", "this process may load modules")
    who = "a container's root" if os.geteuid() == 0 else "a user without the right"
    return stop(
        "not-root",
        f"Modules cannot be loaded: the command was run as {who}.",
        "Run it as root on the host itself, for example with sudo.",
    )


def _kernel(host: Host) -> Finding:
    try:
        release, build_id = read_release(host), read_build_id(host)
    except HostError as error:
        return stop(error.problem.code, error.problem.message, error.problem.advice)
    compiler = read_compiler(host, _found_config(host)) or "an unknown compiler"
    return fine("kernel", f"{release}, build-id {build_id}, built with {compiler}")


def _configuration(host: Host) -> Finding:
    found = _found_config(host)
    if found is None:
        return note(
            "config-unknown",
            "The running kernel's configuration was not found in /proc/config.gz, /boot or /lib/modules.",
            "Nothing needs to be done: the server has it in the base for this build-id.",
        )
    if _config(host) is None:
        return note(
            "config-malformed",
            f"{found.source} is not a valid kernel configuration.",
            "Nothing needs to be done: the server has it in the base for this build-id.",
        )
    return fine("config", f"configuration in {found.source}")


def _livepatching(host: Host, config: KernelConfig | None) -> Finding:
    if supported(host):
        return fine("livepatching", "the kernel has livepatching")
    missing = [name for name in ("LIVEPATCH", "DYNAMIC_FTRACE", "KALLSYMS_ALL") if config and not config.enabled(name)]
    named = f": {', '.join(f'CONFIG_{name}' for name in missing)} not set" if missing else ""
    return stop(
        "no-livepatching",
        f"This kernel has no livepatching{named}.",
        "Install a kernel with CONFIG_LIVEPATCH=y (Debian's, SUSE's and Red Hat's have it), or mount /sys.",
    )


def _replace(host: Host) -> Finding:
    try:
        modern = Rules.of(read_release(host)).replace
    except HostError:
        modern = False
    if modern:
        return fine("replace", "one livepatch can replace all others at once")
    return stop(
        "kernel-old",
        "This kernel is older than 5.1: a livepatch cannot replace the ones before it.",
        "Use a kernel of 5.1 or later.",
    )


def _ftrace(host: Host, config: KernelConfig | None) -> Finding:
    if host.text("proc/sys/kernel/ftrace_enabled") == "0":
        return stop(
            "ftrace-off",
            "ftrace is switched off, and livepatches take effect through it.",
            "Run `sysctl kernel.ftrace_enabled=1`, and find out what switched it off.",
        )
    if config and not (config.enabled("DYNAMIC_FTRACE_WITH_REGS") or config.enabled("DYNAMIC_FTRACE_WITH_ARGS")):
        return stop(
            "ftrace-missing",
            "This kernel's ftrace cannot redirect functions: neither CONFIG_DYNAMIC_FTRACE_WITH_REGS nor _ARGS is set.",
            "Use a kernel that has one of them.",
        )
    return fine("ftrace", "ftrace is on")


def _reliable_stacks(config: KernelConfig | None) -> Finding:
    if config and not config.enabled("HAVE_RELIABLE_STACKTRACE"):
        return note(
            "stacks-unreliable",
            "This kernel has no reliable stack traces: a transition may never end by itself.",
            "Use a kernel with the ORC unwinder (CONFIG_UNWINDER_ORC), or expect to reverse transitions.",
        )
    return fine("stacks", "stacks can be trusted" if config else "it is not known if stacks can be trusted")


def _modules_enabled(host: Host) -> Finding:
    if host.text("proc/sys/kernel/modules_disabled") == "1":
        return stop(
            "modules-disabled",
            "Loading modules was switched off until the next boot (kernel.modules_disabled=1).",
            "Reboot; load livepatches before the service that sets it, for example with elivepatch-boot.service.",
        )
    return fine("modules", "modules can be loaded")


def _signing(host: Host, config: KernelConfig | None) -> Finding:
    why = enforces_signatures(host)
    keys = [line for line in (host.text("proc/keys") or "").splitlines() if " asymmetri " in f"{line} "]
    rings = [ring for ring in _KEYRINGS if f" {ring}" in (host.text("proc/keys") or "")]
    if why:
        return stop(
            "signature-needed",
            f"Only modules that are signed for this kernel load here: {why}; "
            f"it shows {len(keys)} keys in {', '.join(rings) or 'no keyring'}.",
            "elivepatch signs no modules for kernels, so none of its livepatches loads here: turn the "
            "enforcement off (Secure Boot, lockdown=, module.sig_enforce) and reboot, or install a kernel update.",
        )
    if config and config.enabled("MODULE_SIG"):
        return fine("signature", "unsigned modules load and taint the kernel (E)")
    return fine("signature", "unsigned modules load")


def _transition(host: Host) -> Finding:
    moving = [one.name for one in read_livepatches(host) if one.transition]
    if moving:
        return stop(
            "transition-running",
            f"The transition of {moving[0]} is still under way; the kernel does one at a time.",
            "Wait for it: `elivepatch status` names the tasks that hold it.",
        )
    return fine("transition", "no transition is under way")


def _taint(host: Host) -> Finding:
    text = host.text("proc/sys/kernel/tainted") or "0"
    bits = int(text) if text.isdecimal() else 0
    if bits >> _TAINT_DIE & 1:
        return note(
            "kernel-oopsed",
            "This kernel has had an oops or BUG since it booted: a task may hold locks for ever.",
            "Plan a reboot: a transition may wait for the dead task and be reversed.",
        )
    warnings = [
        word
        for bit, word in ((_TAINT_FORCED, "a module was loaded by force"), (_TAINT_WARN, "the kernel logged a warning"))
        if bits >> bit & 1
    ]
    if warnings:
        return note(
            "kernel-tainted", f"The kernel is tainted: {', '.join(warnings)}.", "Read `dmesg` before you go on."
        )
    return fine("taint", f"taint is {bits}")


def _tracers(host: Host) -> Finding:
    held = ipmodify_functions(host)
    if held is None:
        return fine("tracers", "tracefs is not mounted: it is not known if tracers hold functions")
    ours = {function.name for one in read_livepatches(host) for function in one.functions}
    foreign = sorted(set(held) - ours)
    if foreign:
        return note(
            "tracers",
            f"{len(foreign)} functions are redirected, but not by a livepatch: {', '.join(foreign[:5])}.",
            "A livepatch of such a function is refused: stop the tracer (kprobes with post handlers, BPF) first.",
        )
    return fine("tracers", "no other tracer redirects functions")
