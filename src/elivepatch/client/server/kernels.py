# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that a server does not know yet: the client describes the kernel, and waits until the server has its base."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from elivepatch.client.host.identity import (
    find_config,
    read_arch,
    read_build_id,
    read_compiler,
    read_package,
    read_release,
)
from elivepatch.client.host.machine import Host
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Refused
from elivepatch.client.server.follow import JobFollower
from elivepatch.model.errors import BuildStopped, HostError
from elivepatch.model.kernel import BuildId, KernelIdentity, Release, parse_release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Event, Progress
from elivepatch.model.series import BasePatch

# Codes of servers that make no bases on request, and of those that are older than this client.
_MAKE_NONE = frozenset({"method-not-allowed", "not-found", "role-insufficient"})

_Answer = TypeVar("_Answer")


def with_kernel(
    server: ServerClient,
    question: Callable[[], _Answer],
    describe: Callable[[], KernelRequest],
    progress: Progress,
) -> _Answer:
    """Return the answer to a question about a kernel; if the server lacks its base, have it made first.

    Raises Refused if the server makes no bases on request, BuildStopped with the server's problem if it cannot make
    this one; both as `question` does.
    """
    try:
        return question()
    except Refused as refusal:
        if refusal.problem.code != "kernel-unknown":
            raise
        asked = describe()
        try:
            job = server.request_kernel(asked)
        except Refused as second:
            # The first refusal says what the user asked for.
            raise (refusal if second.problem.code in _MAKE_NONE else second) from second
    if job is not None:
        _wait_for_base(server, job, asked.release, progress)
    return question()


def _wait_for_base(server: ServerClient, job: str, release: Release, progress: Progress) -> None:
    progress(Event(stage="job", message=f"the server makes the base of {release}, job {job} at {server.url}"))
    try:
        report = JobFollower(progress).follow(server, job)
    except KeyboardInterrupt as interruption:
        left = f"Job {job}, which makes the base of {release}, goes on at the server; the same command waits for it."
        raise KeyboardInterrupt(left) from interruption
    if report.problem is not None:
        raise BuildStopped(report.problem)


def require_same_build(offered: Sequence[KernelIdentity], release: Release, build_id: BuildId) -> bool:
    """Return whether a server offers this very kernel; raises HostError if it only offers another build of the release.

    A release that the server does not know at all is no error here: it may be able to make the base.
    """
    same = [kernel for kernel in offered if kernel.release == release]
    if same and all(kernel.build_id != build_id for kernel in same):
        raise HostError(
            "other-build",
            f"The server builds for another build of {release}: its build-id is {same[0].build_id}, this host runs "
            f"{build_id}.",
            advice="Boot the packaged kernel, or give each kernel that you build a CONFIG_LOCALVERSION of its own and "
            "push it (`elivepatch kernel push`).",
        )
    return bool(same)


def described_kernel(host: Host, release: str, base_patches: tuple[BasePatch, ...] = ()) -> KernelRequest:
    """Return a kernel as far as this host knows it: of any other kernel than its own, only the release."""
    try:
        build_id = read_build_id(host) if read_release(host) == release else None
    except HostError:
        build_id = None
    if build_id is None:
        return KernelRequest(release=parse_release(release), base_patches=base_patches)
    known = parse_release(release)
    config = find_config(host, known)
    return KernelRequest(
        release=known,
        build_id=build_id,
        arch=read_arch(host),
        compiler=read_compiler(host, config),
        config=config.content if config is not None else b"",
        distribution=_distribution(host),
        package=read_package(host),
        base_patches=base_patches,
    )


def _distribution(host: Host) -> str:
    """Return ID and VERSION_ID of os-release(5), empty if there is none."""
    text = host.text("etc/os-release") or host.text("usr/lib/os-release") or ""
    fields = dict(re.findall(r'(?m)^(ID|VERSION_ID)="?([A-Za-z0-9._-]{1,60})"?$', text))
    return " ".join(fields[name] for name in ("ID", "VERSION_ID") if name in fields)
