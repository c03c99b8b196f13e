# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel a question is about: a vanilla version, a kernel that a server told about, or the one of this host."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from elivepatch.advisory.exposure.exposure import Closing, ExposureSubject
from elivepatch.advisory.exposure.sources import MAX_BYTES, KernelSources, vanilla_of
from elivepatch.advisory.exposure.verdicts import FixVerdict
from elivepatch.advisory.exposure.version import listed_version, parse_kernel_version
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import loaded_modules, read_build_id, read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.livepatch.live_state import read_live_state
from elivepatch.client.livepatch.store import Store
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, HostError, UsageError
from elivepatch.model.kernel import Release
from elivepatch.output import Output

_DEBIAN = re.compile(r" Debian ([0-9][A-Za-z0-9.+~:-]{1,60}) \(")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelUnderTest:
    """The kernel that is asked about, and the host's own machine where it is the one that runs there."""

    subject: ExposureSubject
    release: Release | None
    machine: Machine | None

    @property
    def title(self) -> str:
        """The kernel for people: its vanilla version, its package and release where they are known."""
        sources = self.subject.sources
        if sources is None:
            return f"Linux {self.subject.version}" + (f" ({self.release})" if self.release else "")
        package = f", package {sources.package_version}" if sources.package_version else ""
        return f"Linux {self.subject.version} ({sources.release}{package})"


def add_kernel(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which kernel is meant, and where what is known about it lies."""
    parser.add_argument(
        "--kernel",
        metavar="KERNEL",
        help="a vanilla version such as 6.1.176, 7.0.5 or 7.1-rc3, or a release that `cve update --kernel` fetched "
        "(default: the kernel of this host)",
    )
    parser.add_argument(
        "--sources", metavar="FILE", type=Path, help="what a server says the kernel was built from, saved by cve update"
    )


def add_keep(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the directory of what is kept."""
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help=f"where records, sources and verdicts are kept (default: /{DIRECTORY})"
    )


def kept(arguments: argparse.Namespace) -> CveCache:
    """Return what is kept: where --keep says, else on this host."""
    return CveCache(arguments.keep or machines.this_machine().host.path(DIRECTORY))


def question(arguments: argparse.Namespace, output: Output) -> KernelUnderTest:
    """Return the kernel that the arguments name.

    Raises UsageError where they name none or contradict each other, HostError where the host does not tell.
    """
    if arguments.sources is not None:
        sources = _read_sources(arguments.sources)
        named = {sources.release, str(sources.vanilla), sources.package_version}
        if arguments.kernel is not None and arguments.kernel not in named:
            raise UsageError(
                "cve-other-kernel",
                f"{arguments.sources} is about {sources.release}, not about {arguments.kernel[:80]}.",
                advice="Leave --kernel out, or give the list of sources of that kernel.",
            )
        return _told(arguments, sources, output)
    if arguments.kernel is None:
        return _of_this_host(arguments, output)
    if listed_version(arguments.kernel) is None and _is_release(arguments.kernel):
        sources_kept = kept(arguments).sources(arguments.kernel)
        if sources_kept is not None:
            return _told(arguments, sources_kept, output)
    version = parse_kernel_version(arguments.kernel)
    if arguments.kernel != str(version):
        output.note(
            f"note: {arguments.kernel} is read as the mainline release {version}; "
            "distributions call their kernels .0 whatever they are built from."
        )
    return KernelUnderTest(subject=ExposureSubject(version=version), release=None, machine=None)


def is_named(arguments: argparse.Namespace) -> bool:
    """Tell whether the arguments name a kernel, or what this host's own was built from is kept."""
    if arguments.kernel is not None or arguments.sources is not None:
        return True
    release = machines.this_machine().host.text("proc/sys/kernel/osrelease") or ""
    return _is_release(release) and kept(arguments).has_sources(release)


def _is_release(text: str) -> bool:
    return re.fullmatch(r"[0-9][A-Za-z0-9.+~_-]{0,90}", text) is not None and ".." not in text


def _told(arguments: argparse.Namespace, sources: KernelSources, output: Output) -> KernelUnderTest:
    """Return the question about a kernel that a server told about; on its own host with what is loaded and live."""
    verdicts = _verdicts(arguments, sources.release, output)
    machine = machines.this_machine()
    if machine.host.text("proc/sys/kernel/osrelease") != sources.release:
        subject = ExposureSubject(version=sources.vanilla, sources=sources, verdicts=verdicts)
        return KernelUnderTest(subject=subject, release=sources.release, machine=None)
    if read_build_id(machine.host) != sources.build_id:
        output.note(
            f"note: this host runs another build of {sources.release} than the server knows; "
            "what is loaded here is left out of the answer."
        )
        subject = ExposureSubject(version=sources.vanilla, sources=sources, verdicts=verdicts)
        return KernelUnderTest(subject=subject, release=sources.release, machine=None)
    return _on_host(machine, sources, verdicts, output)


def _of_this_host(arguments: argparse.Namespace, output: Output) -> KernelUnderTest:
    machine = machines.this_machine()
    release = read_release(machine.host)
    try:
        sources = kept(arguments).sources(release)
    except HostError as error:
        output.note(f"note: {error.problem.message} What this kernel builds is not known.")
        sources = None
    if sources is not None and sources.build_id == read_build_id(machine.host):
        return _on_host(machine, sources, _verdicts(arguments, release, output), output)
    if sources is not None:
        output.note(f"note: what is kept about {release} is about another build of it: run `elivepatch cve update`.")
    else:
        output.note("note: run `elivepatch cve update` to learn from a server what this kernel builds.")
    found = _DEBIAN.search(machine.host.text("proc/version") or "")
    package = found[1] if found else ""
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
    machine: Machine, sources: KernelSources, verdicts: dict[str, FixVerdict], output: Output
) -> KernelUnderTest:
    modules = frozenset(module.name for module in loaded_modules(machine.host))
    closings: dict[str, Closing] | None = None
    try:
        closings = live_closings(machine, verdicts)
    except HostError as error:
        output.note(f"note: {error.problem.message} What livepatches close is not known.")
    subject = ExposureSubject(
        version=sources.vanilla, sources=sources, modules=modules, closings=closings, verdicts=verdicts
    )
    return KernelUnderTest(subject=subject, release=sources.release, machine=machine)


def _verdicts(arguments: argparse.Namespace, release: Release, output: Output) -> dict[str, FixVerdict]:
    try:
        return kept(arguments).verdicts(release).by_cve
    except HostError as error:
        output.note(f"note: {error.problem.message} What became of the fixes is not known.")
        return {}


def live_closings(machine: Machine, verdicts: dict[str, FixVerdict]) -> dict[str, Closing]:
    """Return what closes each CVE: the kernel says which livepatches are in force, the record what is in them.

    A CVE is closed where all source patches of its fix are live and, as far as it is known which functions these
    replace, the kernel has one of them in its livepatch. Raises HostError where the record may not be read.
    """
    live_state = read_live_state(machine, Store.of(machine.host).record())
    replaced = {
        one.name: {f"{function.object}:{function.name}" for function in one.functions} for one in live_state.kernel
    }
    found = {}
    for name, verdict in verdicts.items():
        wanted = verdict.closed_by
        for entry in live_state.live:
            carried = {patch.digest for patch in entry.series}
            functions = tuple(one for one in verdict.functions if one in replaced[entry.name])
            if wanted and wanted <= carried and (functions or not verdict.functions):
                found[name] = Closing(livepatch=entry.name, functions=functions)
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
