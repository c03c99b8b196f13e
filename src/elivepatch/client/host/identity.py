# SPDX-License-Identifier: GPL-2.0-or-later
"""Identity of the running kernel, and the patches that were in its source."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass

from elivepatch.client.host.machine import Host
from elivepatch.files.digest import sha256
from elivepatch.model.compiler import parse_compiler
from elivepatch.model.errors import HostError, UsageError
from elivepatch.model.kernel import BuildId, Digest, KernelIdentity, Release, parse_release
from elivepatch.model.series import SourcePatch

_CONFIG_LIMIT = 4 << 20
_DEBIAN = re.compile(r" Debian ([0-9][A-Za-z0-9.+~:-]{1,60}) \(")
_PATCH_LIMIT = 16 << 20
_PATCHES_LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModule:
    """A line of /proc/modules. `uses` is its reference count, `taints` the letters the kernel gives it.

    The kernel never unloads a `permanent` module (kernel/module/procfs.c).
    """

    name: str
    size_bytes: int
    uses: int
    taints: str
    permanent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundConfig:
    """The .config of the running kernel, and the file it came from."""

    source: str
    content: bytes

    @property
    def digest(self) -> Digest:
        """SHA-256 of the configuration, decompressed."""
        return sha256(self.content)


def read_release(host: Host) -> Release:
    """Return `uname -r`; raises HostError if /proc is not mounted or the release is malformed."""
    text = host.text("proc/sys/kernel/osrelease")
    try:
        return parse_release(text or "")
    except UsageError as error:
        raise HostError(
            "kernel-unknown",
            "The running kernel's release cannot be read from /proc/sys/kernel/osrelease.",
            advice="Run this on the host itself, with /proc mounted.",
        ) from error


def read_build_id(host: Host) -> BuildId:
    """Return the GNU build-id of the running kernel from /sys/kernel/notes.

    Raises HostError if the kernel has none: two builds of one release differ in nothing else that can be read.
    """
    from elivepatch.kernel.elf import build_id_of_notes

    try:
        found = build_id_of_notes(host.read("sys/kernel/notes", 1 << 20))
    except OSError:
        found = ""
    if not found:
        raise HostError(
            "build-id-unknown",
            "The running kernel does not show its build-id in /sys/kernel/notes.",
            advice="Mount /sys; a kernel that was linked without --build-id must be built again with it.",
        )
    return BuildId(found)


def read_boot_id(host: Host) -> str:
    """Return the random name of this boot; raises HostError if /proc does not show it."""
    text = host.text("proc/sys/kernel/random/boot_id")
    if not text:
        raise HostError(
            "boot-id-unknown",
            "/proc/sys/kernel/random/boot_id cannot be read.",
            advice="Run this on the host itself, with /proc mounted.",
        )
    return text


def read_arch(host: Host) -> str:
    """Return the kernel's name of the architecture, x86_64 for example."""
    # /proc/sys/kernel/arch exists since Linux 6.1; before, uname(2) says the same unless a personality is set.
    return host.text("proc/sys/kernel/arch") or os.uname().machine


def find_config(host: Host, release: Release) -> FoundConfig | None:
    """Return the running kernel's .config, from the places where distributions keep it; None if there is none."""
    places = (
        "proc/config.gz",
        f"boot/config-{release}",
        f"lib/modules/{release}/config",
        f"usr/lib/modules/{release}/config",
        f"lib/modules/{release}/build/.config",
        f"usr/lib/kernel/config-{release}",
    )
    for place in places:
        try:
            content = host.read(place, _CONFIG_LIMIT + 1)
        except OSError:
            continue
        if place.endswith(".gz"):
            content = _gunzip(content)
        if b"CONFIG_" in content and len(content) <= _CONFIG_LIMIT:
            return FoundConfig(source=f"/{place}", content=content)
    return None


def read_compiler(host: Host, config: FoundConfig | None) -> str:
    """Return the version line of the compiler that built the kernel, empty if it is not known."""
    if config and (found := re.search(rb'^CONFIG_CC_VERSION_TEXT="([^"\n]{1,200})"$', config.content, re.MULTILINE)):
        return found[1].decode(errors="replace")
    # `Linux version RELEASE (builder@host) (COMPILER, LINKER) #1 ...`; the compiler's own text may hold brackets.
    version = host.text("proc/version") or ""
    found_text = re.search(r"\(\S*@\S*\) \((.*?), (?:GNU ld|[A-Za-z ]*LLD |mold |ld\.)", version)
    text = found_text[1] if found_text else ""
    return text if parse_compiler(text) is not None else ""


def read_package(host: Host) -> str:
    """Return the version of Debian's package that the kernel came in, empty for any other kernel."""
    found = _DEBIAN.search(host.text("proc/version") or "")
    return found[1] if found else ""


def read_identity(host: Host) -> KernelIdentity:
    """Return the identity that a livepatch for this host is bound to; raises HostError if it cannot be read.

    `config_digest` is that of an empty file if no configuration is found: the server has the distribution's, and the
    build-id says which.
    """
    release = read_release(host)
    config = find_config(host, release)
    return KernelIdentity(
        release=release,
        build_id=read_build_id(host),
        arch=read_arch(host),
        config_digest=config.digest if config else sha256(b""),
        compiler=read_compiler(host, config),
    )


def loaded_modules(host: Host) -> tuple[LoadedModule, ...]:
    """Return the loaded modules, the one loaded last first (the order of /proc/modules)."""
    found = []
    for line in (host.text("proc/modules") or "").splitlines():
        fields = line.split()
        if len(fields) < 3 or not fields[1].isdecimal():
            continue
        uses = int(fields[2]) if fields[2].isdecimal() else 0
        taints = fields[6].strip("()") if len(fields) > 6 else ""
        permanent = len(fields) > 3 and "[permanent]" in fields[3].split(",")
        found.append(
            LoadedModule(name=fields[0], size_bytes=int(fields[1]), uses=uses, taints=taints, permanent=permanent)
        )
    return tuple(found)


def gentoo_patches(host: Host, release: Release, config_root: str = "") -> tuple[SourcePatch, ...]:
    """Return the user patches that Portage put into a Gentoo kernel, in the order in which it applies them.

    They lie below etc/portage/patches/sys-kernel/PACKAGE[-VERSION[-rN]][:SLOT]; all directories together are sorted by
    file name, a more specific directory's file wins over its namesake and an empty one removes it (Portage,
    eapply_user). `config_root` is PORTAGE_CONFIGROOT. Empty for a kernel that is not Gentoo's. Raises HostError for a
    patch that cannot be read.
    """
    named = re.fullmatch(r"([0-9][0-9.]*)-gentoo(-r[0-9]+)?(-.*)?", release)
    if named is None:
        return ()
    version, revision, suffix = named[1], named[2] or "", named[3] or ""
    package = "gentoo-kernel" if suffix.startswith("-dist") else "gentoo-sources"
    base = f"{config_root.strip('/')}/etc/portage/patches/sys-kernel/{package}".lstrip("/")
    found: dict[str, SourcePatch] = {}
    for suffix in (f"-{version}{revision}", f"-{version}", ""):
        for slot in (f":{version}{revision}", ""):
            for patch in _patches_in(host, f"{base}{suffix}{slot}"):
                found.setdefault(patch.name, patch)
    return tuple(found[name] for name in sorted(found) if found[name].content)


def _patches_in(host: Host, directory: str) -> list[SourcePatch]:
    try:
        names = [item.name for item in host.path(directory).iterdir() if item.suffix in {".patch", ".diff"}]
    except OSError:
        return []
    found = []
    for name in names[:_PATCHES_LIMIT]:
        try:
            content = host.read(f"{directory}/{name}", _PATCH_LIMIT)
        except OSError as error:
            raise HostError(
                "base-patch-unreadable",
                f"/{directory}/{name} cannot be read: {error.strerror}.",
                advice="It is part of the running kernel, so the server needs it; make it readable.",
            ) from error
        found.append(SourcePatch(name, content))
    return found


def _gunzip(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(content, _CONFIG_LIMIT + 1)
    except zlib.error:
        return b""
