# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules: verify, load, unload. Only a module that was verified through the same descriptor is loaded."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elivepatch.client.host.identity import LoadedModule, loaded_modules, read_arch, read_build_id, read_release
from elivepatch.client.host.machine import Host, Machine
from elivepatch.client.host.refusals import new_messages, refusal
from elivepatch.client.host.sysfs import read_livepatch
from elivepatch.model.errors import EnvironmentFault, HostError, TrustError
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.statement import Statement

if TYPE_CHECKING:
    from elivepatch.kernel.elf import ElfFile

MODULE_LIMIT = 256 << 20
_PRE_PATCH = ".kpatch.callbacks.pre_patch"
_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243, "loongarch64": 258, "ppc64le": 21}  # elf.h, EM_*


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedModule:
    """An open module file that agrees with its signed statement and fits the running kernel.

    `relocated` are the modules that a kernel may refuse to load again under it (elivepatch.kernel.reload).
    `pre_patch_callback`: it has a function that may refuse to be loaded.
    """

    descriptor: int
    statement: Statement
    relocated: tuple[str, ...] = ()
    pre_patch_callback: bool = False


@contextmanager
def open_verified(host: Host, module: Path, envelope: bytes, pinned: Collection[PublicKey]) -> Iterator[VerifiedModule]:
    """Open a module for loading; the descriptor is closed at the end of the block.

    Raises TrustError if no pinned server signed this module, HostError if it is signed but not for this kernel, or
    is not a livepatch.
    """
    try:
        descriptor = os.open(module, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise HostError(
            "module-unreadable",
            f"{module} cannot be read: {error.strerror}.",
            advice="Give an existing module file, not a link to one.",
        ) from error
    try:
        content = _content(module, descriptor)
        statement = verify_livepatch(envelope, content, pinned)
        check_kernel(host, statement)
        yield _checked(descriptor, statement)
    finally:
        os.close(descriptor)


def check_kernel(host: Host, statement: Statement) -> None:
    """Raise HostError if the statement is about another kernel than the running one."""
    for what, theirs, ours in (
        ("release", statement.release, read_release(host)),
        ("architecture", statement.arch, read_arch(host)),
        ("build-id", statement.build_id, read_build_id(host)),
    ):
        if theirs != ours:
            raise HostError(
                "other-kernel",
                f"{statement.name} is for {what} {theirs}, this host runs {ours}.",
                advice="Build it for this host with `elivepatch apply`: a livepatch fits one build of a kernel only.",
            )


def insert(machine: Machine, module: VerifiedModule) -> None:
    """Load a verified module; the kernel starts its transition. Raises HostError that explains the kernel's errno."""
    name = module.statement.name
    with new_messages(machine.host) as told:
        try:
            machine.kernel.load(module.descriptor)
        except OSError as error:
            callback = module.pre_patch_callback
            raise refusal(machine.host, name, error, told(), pre_patch_callback=callback) from error


def remove(machine: Machine, name: str) -> bool:
    """Unload the module of a livepatch that is out of force; return whether it is gone.

    A permanent one stays, and nothing is tried. The kernel drops its own reference a moment after the transition, so a
    busy module is retried for two seconds.
    """
    deadline = machine.clock.monotonic() + 2.0
    while (module := _loaded(machine.host, name)) is not None:
        if module.permanent:
            return False
        try:
            machine.kernel.unload(name)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return True
            if error.errno not in {errno.EAGAIN, errno.EBUSY, errno.EWOULDBLOCK}:
                return False
            if machine.clock.monotonic() >= deadline:
                return False
            machine.clock.sleep(0.1)
    return True


def holding_themselves(host: Host, names: Collection[str]) -> tuple[str, ...]:
    """Return those of the live livepatches `names` that hold references to themselves beyond the kernel's one.

    Their callbacks take one while pointers into them are written in places that only their own disabling restores: a
    livepatch that replaces them runs no callback of theirs (Documentation/livepatch/callbacks.rst).
    """
    return tuple(sorted(module.name for module in loaded_modules(host) if module.name in names and module.uses > 1))


def is_pinned(host: Host, name: str) -> bool:
    """Return whether `name` is the module of a livepatch that is out of force and stays until a reboot.

    The kernel keeps its reference to the module of a livepatch that a forced transition removed, because a task may
    still run in it (klp_force_transition and klp_free_patch_finish in kernel/livepatch). A permanent one has handed out
    addresses that lead into it.
    """
    module = _loaded(host, name)
    if module is None or "K" not in module.taints or not (module.uses or module.permanent):
        return False
    livepatch = read_livepatch(host, name)
    # The kernel removes the directory a moment after the transition.
    return livepatch is None or (module.permanent and not livepatch.enabled and not livepatch.transition)


def is_permanent(host: Host, name: str) -> bool:
    """Return whether the kernel will never unload the module `name`."""
    module = _loaded(host, name)
    return module is not None and module.permanent


def _loaded(host: Host, name: str) -> LoadedModule | None:
    return next((module for module in loaded_modules(host) if module.name == name), None)


def _content(module: Path, descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MODULE_LIMIT:
        raise HostError(
            "module-unreadable",
            f"{module} is not a module file.",
            advice="Give a .ko file from the server.",
        )
    with os.fdopen(os.dup(descriptor), "rb") as file:
        content = file.read(MODULE_LIMIT + 1)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return content


def _checked(descriptor: int, statement: Statement) -> VerifiedModule:
    from elivepatch.kernel.elf import ElfFile
    from elivepatch.kernel.reload import relocated_modules

    elf = ElfFile(Path(f"/proc/self/fd/{descriptor}"))
    _check_module(elf, descriptor, statement)
    return VerifiedModule(
        descriptor=descriptor,
        statement=statement,
        relocated=relocated_modules(elf),
        pre_patch_callback=_PRE_PATCH in elf.by_name,
    )


def _check_module(elf: ElfFile, descriptor: int, statement: Statement) -> None:
    try:
        info = elf.modinfo
        with os.fdopen(os.dup(descriptor), "rb") as file:
            header = file.read(20)
    except EnvironmentFault as error:
        raise TrustError(
            "module-malformed",
            f"{statement.name} is signed but is not a readable module.",
            advice="The server signed a file that is not a module: report it to the server's operator.",
        ) from error
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    if info.get("livepatch") != ["Y"]:
        raise HostError(
            "not-a-livepatch",
            f"{statement.name} is a kernel module but not a livepatch.",
            advice="Load ordinary modules with modprobe.",
        )
    vermagic = (info.get("vermagic") or [""])[0].split(" ")[0]
    if vermagic != statement.release:
        raise HostError(
            "vermagic",
            f"{statement.name} was built for release {vermagic or '(none)'}, its statement says {statement.release}.",
            advice="The server made a mistake: build again, and report it to the server's operator.",
        )
    if info.get("name") != [statement.name]:
        raise HostError(
            "module-name",
            f"The module of {statement.name} calls itself {(info.get('name') or ['nothing'])[0]!r}.",
            advice="The server made a mistake: build again, and report it to the server's operator.",
        )
    if int.from_bytes(header[18:20], "little") != _MACHINES.get(statement.arch, -1):
        raise HostError(
            "other-kernel",
            f"{statement.name} is not machine code for {statement.arch}.",
            advice="Build it for this host with `elivepatch apply`.",
        )
