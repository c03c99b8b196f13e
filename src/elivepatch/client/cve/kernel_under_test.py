# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel that a question about CVEs is about: a vanilla version, one whose sources are known, or this host's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elivepatch.advisory.exposure.exposure import Closing, ExposureSubject
from elivepatch.advisory.exposure.sources import MAX_BYTES, KernelSources, vanilla_of
from elivepatch.advisory.exposure.verdicts import FixVerdict
from elivepatch.advisory.exposure.version import listed_version, parse_kernel_version
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.cve.options import KernelOptions
from elivepatch.client.host.identity import loaded_modules, read_build_id, read_package, read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.livepatch.live_state import read_live_state
from elivepatch.client.livepatch.store import Store
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, HostError, UsageError
from elivepatch.model.kernel import Release
from elivepatch.output import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelUnderTest:
    """A kernel, and this host's machine if it runs there."""

    subject: ExposureSubject
    release: Release | None
    machine: Machine | None

    @property
    def title(self) -> str:
        """The kernel for people: its vanilla version, its package and release if they are known."""
        sources = self.subject.sources
        if sources is None:
            return f"Linux {self.subject.version}" + (f" ({self.release})" if self.release else "")
        package = f", package {sources.package_version}" if sources.package_version else ""
        return f"Linux {self.subject.version} ({sources.release}{package})"


def kernel_under_test(options: KernelOptions, output: Output) -> KernelUnderTest:
    """Return the kernel that the options name.

    Raises UsageError if they name none or contradict each other, HostError if the host's own cannot be read.
    """
    if options.sources is not None:
        sources = _read_sources(options.sources)
        named = {sources.release, str(sources.vanilla), sources.package_version}
        if options.kernel is not None and options.kernel not in named:
            raise UsageError(
                "cve-other-kernel",
                f"{options.sources} is about {sources.release}, not about {options.kernel[:80]}.",
                advice="Leave --kernel out, or give the list of sources of that kernel.",
            )
        return known_kernel(options.machine, options.cache, sources, output)
    if options.kernel is None:
        return _of_this_host(options.machine, options.cache, output)
    if listed_version(options.kernel) is None and _is_release(options.kernel):
        cached = options.cache.sources(options.kernel)
        if cached is not None:
            return known_kernel(options.machine, options.cache, cached, output)
    version = parse_kernel_version(options.kernel)
    if options.kernel != str(version):
        output.note(
            f"note: {options.kernel} is read as the mainline release {version}; "
            "distributions call their kernels .0 whichever update they are built from."
        )
    return KernelUnderTest(subject=ExposureSubject(version=version), release=None, machine=None)


def names_kernel(options: KernelOptions) -> bool:
    """Return whether the options name a kernel, or the sources of this host's own are in the cache."""
    if options.kernel is not None or options.sources is not None:
        return True
    release = options.machine.host.text("proc/sys/kernel/osrelease") or ""
    return _is_release(release) and options.cache.has_sources(release)


def known_kernel(machine: Machine, cache: CveCache, sources: KernelSources, output: Output) -> KernelUnderTest:
    """Return a kernel whose sources are known; on its own host with the modules and livepatches that are live."""
    verdicts = _verdicts(cache, sources.release, output)
    if machine.host.text("proc/sys/kernel/osrelease") == sources.release:
        if read_build_id(machine.host) == sources.build_id:
            return _on_host(machine, sources, verdicts, output)
        output.note(
            f"note: this host runs another build of {sources.release} than the server knows; "
            "its loaded modules are left out of the answer."
        )
    subject = ExposureSubject(version=sources.vanilla, sources=sources, verdicts=verdicts)
    return KernelUnderTest(subject=subject, release=sources.release, machine=None)


def _is_release(text: str) -> bool:
    return re.fullmatch(r"[0-9][A-Za-z0-9.+~_-]{0,90}", text) is not None and ".." not in text


def _of_this_host(machine: Machine, cache: CveCache, output: Output) -> KernelUnderTest:
    release = read_release(machine.host)
    try:
        sources = cache.sources(release)
    except HostError as error:
        output.note(f"note: {error.problem.message} The sources that this kernel builds are not known.")
        sources = None
    if sources is not None and sources.build_id == read_build_id(machine.host):
        return _on_host(machine, sources, _verdicts(cache, release, output), output)
    if sources is not None:
        output.note(f"note: the cache knows another build of {release}: run `elivepatch cve update`.")
    else:
        output.note("note: run `elivepatch cve update` to learn from a server which sources this kernel builds.")
    package = read_package(machine.host)
    try:
        version = vanilla_of("" if not package and re.match(r"[0-9.]+\.0-[0-9]", release) else release, package)
    except EnvironmentFault as error:
        raise UsageError(
            "cve-kernel-distribution",
            f"The vanilla version that {release} is built from is not known here.",
            advice="Run `elivepatch cve update` to learn it from a server, or give a vanilla version with --kernel.",
        ) from error
    output.note(f"note: answered for {package or release} by its version {version} alone, without its changelog.")
    modules = frozenset(module.name for module in loaded_modules(machine.host))
    subject = ExposureSubject(version=version, modules=modules)
    return KernelUnderTest(subject=subject, release=release, machine=machine)


def _on_host(
    machine: Machine, sources: KernelSources, verdicts: Mapping[str, FixVerdict], output: Output
) -> KernelUnderTest:
    closings: dict[str, Closing] | None = None
    try:
        closings = live_closings(machine, verdicts)
    except HostError as error:
        output.note(f"note: {error.problem.message} The CVEs that livepatches close are not known.")
    subject = ExposureSubject(
        version=sources.vanilla,
        sources=sources,
        modules=frozenset(module.name for module in loaded_modules(machine.host)),
        closings=closings,
        verdicts=verdicts,
    )
    return KernelUnderTest(subject=subject, release=sources.release, machine=machine)


def _verdicts(cache: CveCache, release: Release, output: Output) -> Mapping[str, FixVerdict]:
    try:
        return cache.verdicts(release).by_cve
    except HostError as error:
        output.note(f"note: {error.problem.message} The verdicts on fixes are not known.")
        return {}


def live_closings(machine: Machine, verdicts: Mapping[str, FixVerdict]) -> dict[str, Closing]:
    """Return the livepatch that closes each CVE: the kernel reports those in force, the record their contents.

    A CVE is closed if all source patches of its fix are live and, as far as it is known which functions these
    replace, the kernel has one of them in its livepatch. Raises HostError if the record cannot be read.
    """
    state = read_live_state(machine, Store.of(machine.host).record())
    replaced = {one.name: {f"{function.object}:{function.name}" for function in one.functions} for one in state.kernel}
    # Digests once for each livepatch: a cumulative one has a thousand source patches, a host a thousand verdicts.
    carried = [(entry.name, {patch.digest for patch in entry.series}) for entry in state.live]
    found = {}
    for name, verdict in verdicts.items():
        wanted = verdict.closed_by
        for livepatch, digests in carried:
            functions = tuple(one for one in verdict.functions if one in replaced[livepatch])
            if wanted and wanted <= digests and (functions or not verdict.functions):
                found[name] = Closing(livepatch=livepatch, functions=functions)
    return found


def _read_sources(file: Path) -> KernelSources:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            "kernel-sources", f"{file} cannot be read: {error.strerror}.", advice="Check the file's name."
        ) from error
    try:
        return KernelSources.decode(content)
    except ElivepatchError as error:
        raise UsageError(
            "kernel-sources", f"{file} is not a list of a kernel's sources.", advice=error.problem.advice
        ) from error
