# SPDX-License-Identifier: GPL-2.0-or-later
"""Providing of a kernel: the providers are asked in order, and the first that has it makes its base.

A provider that does not have the kernel says why. Nothing is guessed: a base whose build-id is not that of the host is
no answer for that host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from elivepatch.build.base.common import other_architecture
from elivepatch.build.base.store import Base
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import ElivepatchError, EnvironmentFault
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Event, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class NotProvided:
    """The answer of a provider that does not have the kernel; `why` is a sentence, `advice` the way to change that."""

    why: str
    advice: str


class Provider(Protocol):
    """One way to get the files of a kernel. `name` is the word of the setting `providers`."""

    name: str

    def provide(self, asked: KernelRequest) -> Base | NotProvided:
        """Make the base of the kernel, or say why this provider does not have it.

        Raises ElivepatchError if it has the kernel and the base cannot be made.
        """


def described(asked: KernelRequest) -> str:
    """Return what a host said of its kernel, in one line, for the log."""
    facts = {
        "build-id": asked.build_id, "distribution": asked.distribution, "package": asked.package,
        "compiler": asked.compiler, "base patches": ", ".join(patch.name for patch in asked.base_patches),
    }  # fmt: skip
    known = [f"{name} {value}" for name, value in facts.items() if value]
    return "; ".join([f"asked for {asked.release}", *known])


@contextmanager
def transcript(log: Path, progress: Progress) -> Iterator[Progress]:
    """Yield `progress` that also writes its messages to `log`, and at the end the problem that ended the work."""
    with log.open("a", encoding="utf-8") as stream:

        def tell(event: Event) -> None:
            # Fractions change many times a second.
            if event.fraction in {None, 0.0, 1.0}:
                stream.write(f"{event.message}\n")
                stream.flush()
            progress(event)

        try:
            yield tell
        except ElivepatchError as error:
            stream.write(f"{error.problem.message} [{error.problem.code}]\n{error.problem.excerpt}\n")
            raise


def provide(asked: KernelRequest, providers: Sequence[Provider], present: Base | None) -> Base:
    """Return the base of the kernel: the one that is `present`, else made by the first provider that has it.

    Raises EnvironmentFault with the code `kernel-not-provided` and the answer of each provider if none has it, with the
    code `other-build` if the server has another kernel of this release; ElivepatchError of the provider that failed.
    """
    if asked.arch not in {"", "x86_64"}:
        raise other_architecture(f"The kernel {asked.release} is one for {asked.arch}.")
    if present is not None:
        return _of_the_host(present, asked)
    answers: list[tuple[str, NotProvided]] = []
    failed: ElivepatchError | None = None
    for provider in providers:
        try:
            made = provider.provide(asked)
        except ElivepatchError as error:
            # Another provider may have the kernel. The first failure is what the host sees if none has.
            if failed is None:
                failed = error
            else:
                answers.append((provider.name, NotProvided(why=error.problem.message, advice=error.problem.advice)))
            continue
        if isinstance(made, Base):
            return _of_the_host(made, asked)
        answers.append((provider.name, made))
    raise _refusal(asked, answers, failed)


def require_same_build(vmlinux: Path, asked: KernelRequest, *, whose: str) -> None:
    """Raise EnvironmentFault if a vmlinux is of another build than the host's kernel; `whose` begins the sentence."""
    found = ElfFile(vmlinux).build_id
    if asked.build_id and found != asked.build_id:
        raise EnvironmentFault(
            "other-build",
            f"{whose} has the build-id {found or 'of no kernel'}, the host runs {asked.build_id}.",
            advice="Give the files of exactly the running kernel, or boot the kernel that they are of.",
        )


def _refusal(
    asked: KernelRequest, answers: Sequence[tuple[str, NotProvided]], failed: ElivepatchError | None
) -> ElivepatchError:
    said = [f"{name}: {answer.why}" for name, answer in answers]
    if failed is not None:
        excerpt = "\n".join((*filter(None, [failed.problem.excerpt]), *said))
        failed.problem = replace(failed.problem, excerpt=excerpt)
        return failed
    if not answers:
        return EnvironmentFault(
            "kernel-not-provided",
            f"This server has no provider of kernels, so it cannot make the base of {asked.release}.",
            advice="Its operator adds the kernel (elivepatch-server kernel add), or names providers in its settings.",
        )
    return EnvironmentFault(
        "kernel-not-provided",
        f"No provider of this server has the kernel {asked.release}.",
        advice=f"Compare the release with `uname -r` on the host. {answers[-1][1].advice}",
        excerpt="\n".join(said),
    )


def _of_the_host(base: Base, asked: KernelRequest) -> Base:
    """Return the base if it is of the very kernel that was asked for; raises EnvironmentFault if it is of another."""
    if asked.build_id and asked.build_id != base.identity.build_id:
        raise EnvironmentFault(
            "other-build",
            f"The server's kernel {base.release} is another build: its build-id is {base.identity.build_id}, that of "
            f"the host is {asked.build_id}.",
            advice="If the host's kernel was built by its operator, give it a CONFIG_LOCALVERSION of its own and add "
            "it on the server with its source (docs/custom.md).",
        )
    return base
