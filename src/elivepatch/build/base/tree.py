# SPDX-License-Identifier: GPL-2.0-or-later
"""Source tree of a base: configured exactly as the kernel was, ready to compile single objects of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.base.kbuild import SOURCE_TOPS, make_arguments, section_flags
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox, writable_directory
from elivepatch.build.sandbox.output import take
from elivepatch.kernel.compile_units import Units, make_units
from elivepatch.kernel.config import FILE_NAMES, KernelConfig, differences, likely_causes, parse_config
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.kernel import Release

_RELEASE_HEADER = re.compile(r'#define UTS_RELEASE "([^"]*)"')
_VERSION_PART = re.compile(r"(?m)^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)$")
_NUMBERS = re.compile(r"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?")
_FILE_LIMIT_BYTES = 4 << 20
_OBJECT_RULE = re.compile(r"(?ms)^define rule_cc_o_c$.*?^endef$")
_OBJECT_COMMAND = re.compile(r"(?m)^ *cmd_cc_o_c *= *\$\(CC\) .*$")
_SET_TIMES = ("find", ".", "!", "-type", "d", "-exec", "touch", "-h", "-c", "-d", "@946684800", "{}", "+")
_OBJECT_STEPS = ("objtool", "modversions_c")
_SUFFIX_ONLY = "$(KERNELVERSION)$$($(CONFIG_SHELL) $(srctree)/scripts/setlocalversion"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeMaker:
    """Prepares the tree at `tree`, which belongs to the sandbox's user; `patch_headers` are kpatch's."""

    tree: Path
    release: Release
    config: KernelConfig
    cc: str
    jobs: int
    sandbox: Sandbox
    patch_headers: Path

    def configure(self, content: bytes, *, package_version: str = "") -> None:
        """Write the configuration and freeze the release. Raises EnvironmentFault if they differ from the kernel's.

        `package_version` is that of Debian's source package, which the kernel prints in its traces. All files of the
        source get one time: equal files of two sources are then the same in all that can be seen of them.
        """
        self.sandbox.run(_SET_TIMES, writable=self.tree).check("Setting the times of the source's files")
        self._write(".config", content)
        # Debian's makefile reads this file; it gives vermagic the release with its local version.
        variables: dict[str, str] = {"KERNELRELEASE": self.release}
        if package_version:
            variables |= {"DISTRIBUTION_OFFICIAL_BUILD": "1", "DISTRIBUTOR": "Debian"}
            variables["DISTRIBUTION_VERSION"] = package_version
        lines = [f"override {name} = {value}\n" for name, value in variables.items()]
        self._write(".kernelvariables", "".join(lines).encode())
        emptied = [name for name in FILE_NAMES if self.config.get(name) not in {"n", ""}]
        changes = ["-d", "MODULE_SIG_ALL", "--set-str", "MODULE_SIG_KEY", ""]
        for name in emptied:
            changes += ["--set-str", name, ""]
        self.make(["scripts/config", *changes], "Configuring the source tree")
        self.make([*make_arguments(self.cc, self.jobs), "olddefconfig"], "Configuring the source tree")
        prepared = parse_config(_read(self.tree, ".config").encode())
        config_gate(self.config, prepared, self.release, stock=bool(package_version))

    def freeze_release(self) -> None:
        """Make the build system use the kernel's own release, which came from a git repository or a user's files.

        Raises EnvironmentFault with the code `release-mismatch` if the source is of another version.
        """
        makefile = _read(self.tree, "Makefile")
        version = makefile_version(makefile)
        if not version:
            raise UsageError(
                "source-unknown",
                "This is not the source of a kernel: it has no Makefile that states a version.",
                advice="Give the top directory of the kernel's source, or an archive with one top directory.",
            )
        if not may_be_of(self.release, version):
            raise EnvironmentFault(
                "release-mismatch",
                f"The source is of Linux {version}, so it cannot be that of a kernel {self.release}.",
                advice="Give the source that the kernel was built from, and the release that `uname -r` prints there.",
            )
        # Until 6.3 the script prints only the part after the version.
        printed = self.release.removeprefix(version) if _SUFFIX_ONLY in makefile else self.release
        self._write("scripts/setlocalversion", f"#!/bin/sh\necho '{printed}'\n".encode())
        (self.tree / "scripts/setlocalversion").chmod(0o755)

    def prepare(self) -> list[str]:
        """Prepare for single objects; return the tree's lines that include a .c file, and all its .c files."""
        if self.config.enabled("X86_KERNEL_IBT") or self.config.enabled("KLP_BUILD"):
            objtool_per_object(self.tree)
        _replace(
            self.tree, "scripts/Makefile.modfinal", "CONFIG_DEBUG_INFO_BTF_MODULES", "CONFIG_NO_BTF_IN_LIVEPATCHES"
        )
        one_command_for_objects(self.tree)
        make = [*make_arguments(self.cc, self.jobs), f"KCFLAGS={section_flags(self.tree)}", "modules_prepare"]
        self.make(make, "Preparing the source tree", tools=self.patch_headers)
        header = _read(self.tree, "include/generated/utsrelease.h")
        if (found := _RELEASE_HEADER.search(header)) is None or found[1] != self.release:
            raise EnvironmentFault(
                "release-mismatch",
                f"The source makes a kernel {found[1] if found else 'without a name'}, not {self.release}.",
                advice="Give the release that `uname -r` prints on the host.",
            )
        grep = f"grep -rE --include='*.c' '^[[:space:]]*#[[:space:]]*include.*[.]c[\">]' {SOURCE_TOPS} 2>/dev/null; "
        script = grep + f"echo; find {SOURCE_TOPS} -name '*.c' 2>/dev/null"
        return self.sandbox.run(["sh", "-c", script], layers=[self.tree]).text.splitlines()

    def make(self, command: list[str], doing: str, *, tools: Path | None = None, timeout_s: float = 1800) -> None:
        """Run a command in the tree. Raises EnvironmentFault if it fails."""
        self.sandbox.run(command, writable=self.tree, tools=tools, timeout_s=timeout_s).check(
            f"{doing} ({command[-1]})"
        )

    def _write(self, name: str, content: bytes) -> None:
        _write(self.tree, name, content)


def unpack_source(archive: Path, tree: Path, sandbox: Sandbox) -> None:
    """Unpack a tar archive of a kernel's source, whose one top directory becomes the new directory `tree`."""
    writable_directory(tree)
    command = ["tar", "-x", "-f", f"/in/{archive.name}", "--strip-components=1", "--no-same-permissions", "-C", "/src"]
    sandbox.run(command, inputs=archive.parent, writable=tree).check("Unpacking the kernel source")


def units_of(compiled: dict[str, tuple[str, set[str]]], listed: list[str]) -> Units:
    """Return the units from debug information and the list that `TreeMaker.prepare` returned."""
    split = listed.index("") if "" in listed else len(listed)
    return make_units(compiled, listed[:split], set(listed[split + 1 :]))


def makefile_version(makefile: str) -> str:
    """Return the version that a kernel's top makefile states, such as `6.12.107` or `7.3.0-rc7`."""
    parts: dict[str, str] = dict(_VERSION_PART.findall(makefile))
    numbers = [parts.get(name, "") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    return ".".join(number for number in numbers if number) + parts.get("EXTRAVERSION", "")


def may_be_of(release: str, version: str) -> bool:
    """Return if a kernel of this release can have been built from a source of this version.

    Some distributions keep the last number at zero in all releases of a series: 6.1.0-50 is built from 6.1.176.
    """
    ours, theirs = (_NUMBERS.match(text) for text in (release, version))
    if ours is None or theirs is None:
        return False
    return ours.group(1, 2) == theirs.group(1, 2) and ours[3] in {None, "0", theirs[3]}


def objtool_per_object(tree: Path) -> None:
    """Make objtool run on each object instead of once over the linked kernel, so that single objects are complete.

    Kernels that klp-build can serve delay objtool because that compares whole kernels. Kernels with IBT delay it to
    find functions whose ENDBR can be sealed; that needs the whole kernel, and the sealing has been done by the shipped
    one (checks/module.py looks at its list instead).
    """
    makefile = "scripts/Makefile.lib"
    sealing = _replace(tree, makefile, r"(?m)^objtool-args-\$\(CONFIG_X86_KERNEL_IBT\)", r"# \g<0>")
    delaying = _replace(tree, makefile, r"(?m)^delay-objtool := .*", "delay-objtool := $(CONFIG_LTO_CLANG)")
    if not sealing or not delaying:
        raise EnvironmentFault(
            "kernel-unsupported",
            "This kernel's build system delays objtool in a way that is not supported yet.",
            advice="Report the kernel version; it needs a change in elivepatch.",
        )


def one_command_for_objects(tree: Path) -> None:
    """Make the command that make saves for an object the whole of what makes it.

    In 5.10, the rule for an object runs objtool after the saved command, and then the linker, which gives exports their
    checksums; in 6.1 it does neither. An object that the saved command alone made would have no unwind entries.
    """
    makefile = "scripts/Makefile.build"
    text = _read(tree, makefile)
    rule = _OBJECT_RULE.search(text)
    steps = [name for name in _OBJECT_STEPS if rule is not None and f"$(call cmd,{name})" in rule[0]]
    if rule is None or not steps:
        return
    shorter = re.sub(rf"(?m)^\t\$\(call cmd,(?:{'|'.join(steps)})\)\n", "", rule[0])
    added = "".join(f"$(if $(strip $(cmd_{name})), ; $(cmd_{name}))" for name in steps)
    text, count = _OBJECT_COMMAND.subn(lambda found: found[0] + added, text.replace(rule[0], shorter))
    if count != 1:
        raise EnvironmentFault(
            "kernel-unsupported",
            "This kernel's build system runs objtool in a way that is not supported yet.",
            advice="Report the kernel version; it needs a change in elivepatch.",
        )
    _write(tree, makefile, text.encode())


def config_gate(shipped: KernelConfig, prepared: KernelConfig, release: str, *, stock: bool = False) -> None:
    """Raise EnvironmentFault if the prepared configuration differs from the one that the kernel was built with.

    The advice for a `stock` kernel is another one: its source came from its own packages.
    """
    differing = differences(shipped, prepared)
    if differing:
        raise EnvironmentFault(
            "config-gate",
            f"The prepared configuration of {release} is not the shipped one: {len(differing)} options differ.",
            advice=" ".join(likely_causes(differing, stock=stock)),
            excerpt="\n".join(
                f"CONFIG_{name}: {old} became {new}" for name, (old, new) in list(differing.items())[:20]
            ),
        )


def _replace(tree: Path, name: str, pattern: str, replacement: str) -> int:
    text, count = re.subn(pattern, replacement, _read(tree, name))
    _write(tree, name, text.encode())
    return count


def _read(tree: Path, name: str) -> str:
    try:
        return take(tree, name, limit_bytes=_FILE_LIMIT_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _write(tree: Path, name: str, content: bytes) -> None:
    """Write a file of the tree, never through a link that the source's author put in its place or above it."""
    path = tree / name
    linked = [parent for parent in path.relative_to(tree).parents if (tree / parent).is_symlink()]
    if linked:
        raise UsageError(
            "source-links",
            f"In the source, {linked[0]} is a symbolic link; in a kernel it is a directory.",
            advice="Give the kernel's source as it was released.",
        )
    mode = path.lstat().st_mode & 0o777 if path.exists() else 0o644
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.chown(path, BUILD_UID, BUILD_UID)
