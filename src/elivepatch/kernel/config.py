# SPDX-License-Identifier: GPL-2.0-or-later
"""Parser of a kernel's .config: strict, and never a shell, because to a shell the file is code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from elivepatch.model.errors import UsageError

_ASSIGNMENT = re.compile(
    r"""CONFIG_(?P<name>[A-Za-z0-9_]{1,120})=(?P<value>
        [ymn] | -?[0-9]{1,20} | 0[xX][0-9a-fA-F]{1,16} | "(?:[^"\\\x00-\x1f]|\\["\\])*" )""",
    re.VERBOSE,
)
_UNSET = re.compile(r"# CONFIG_(?P<name>[A-Za-z0-9_]{1,120}) is not set")
_LIMIT_BYTES = 4 << 20

# olddefconfig adds or changes these options, because the distribution's package build sets its salt and its keys
# elsewhere; neither is part of any object's code. CC_VERSION_TEXT differs only in the name by which the same compiler
# was called; the version is compared separately.
FILE_NAMES = (
    "SYSTEM_TRUSTED_KEYS", "SYSTEM_REVOCATION_KEYS", "SYSTEM_BLACKLIST_HASH_LIST", "INITRAMFS_SOURCE", "EXTRA_FIRMWARE",
)  # fmt: skip
"""Options that name files of the machine on which the kernel was configured; emptied before anything is built."""

ALLOWED_DIFFERENCES = frozenset(
    {"BUILD_SALT", "CC_VERSION_TEXT", "MODULE_SIG_ALL", "MODULE_SIG_KEY", "EXTRA_FIRMWARE_DIR", "INITRAMFS_ROOT_UID",
     "INITRAMFS_ROOT_GID", *FILE_NAMES}
)  # fmt: skip


_NOT_SERVED = {
    "LTO": (
        "kernel-lto",
        "is optimised as a whole when it is linked, so that no object can be compiled alone and compared with it",
        "Build and boot the kernel with CONFIG_LTO_NONE.",
    ),
    "AUTOFDO_CLANG": (
        "kernel-profile",
        "was compiled by a profile of its use (AutoFDO), without which its code cannot be compiled again",
        "Build and boot the kernel without CONFIG_AUTOFDO_CLANG.",
    ),
    "PROPELLER_CLANG": (
        "kernel-profile",
        "was linked by a profile of its use (Propeller), which moves parts of its functions",
        "Build and boot the kernel without CONFIG_PROPELLER_CLANG.",
    ),
    "CFI": (
        "kernel-cfi",
        "checks the type of each indirect call (kCFI, FineIBT), and no livepatch with such checks was ever tried",
        "Build and boot the kernel without CONFIG_CFI_CLANG (CONFIG_CFI from 6.18 on).",
    ),
    "FTRACE_MCOUNT_USE_OBJTOOL": (
        "kernel-entries",
        "has NOPs at the entries of its functions (clang); the calls of a livepatch there would end all tracing",
        "Build and boot the kernel with gcc, without CONFIG_FTRACE_MCOUNT_USE_OBJTOOL.",
    ),
}
"""Options whose kernels cannot be served yet, each with a code, the reason and a way out."""
_OTHER_NAMES = {"LTO_CLANG": "LTO", "LTO_GCC": "LTO", "CFI_CLANG": "CFI"}


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Assignments of a .config. Values are as written, strings without their quotes; an unset option is `n`."""

    values: Mapping[str, str]

    def get(self, name: str) -> str:
        """Return the value of CONFIG_`name`, `n` if it is unset or missing."""
        return self.values.get(name, "n")

    def enabled(self, name: str) -> bool:
        """Return True if CONFIG_`name` is `y`."""
        return self.get(name) == "y"


def parse_config(data: bytes) -> KernelConfig:
    """Parse a .config. Raises UsageError for a line that is neither a Kconfig assignment nor a comment nor empty."""
    if len(data) > _LIMIT_BYTES:
        raise _refused(0, f"is larger than {_LIMIT_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _refused(0, "is not UTF-8 text") from error
    values: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if found := _ASSIGNMENT.fullmatch(line):
            value = found["value"]
            if value.startswith('"'):
                if "$(" in value or "${" in value or "`" in value:
                    raise _refused(number, "holds a command substitution")
                value = re.sub(r'\\(["\\])', r"\1", value[1:-1])
            values[found["name"]] = value
        elif found := _UNSET.fullmatch(line):
            values[found["name"]] = "n"
        elif line and not line.startswith("#"):
            raise _refused(number, f"is not a Kconfig assignment: {line[:60]!r}")
    return KernelConfig(values)


def require_separate_objects(config: KernelConfig) -> None:
    """Raise UsageError if the objects of a kernel cannot be compiled one by one, or would not fit into it.

    The codes are `kernel-lto`, `kernel-profile`, `kernel-cfi` and `kernel-entries`.
    """
    for name in (*_OTHER_NAMES, *_NOT_SERVED):
        if config.enabled(name):
            code, reason, advice = _NOT_SERVED[_OTHER_NAMES.get(name, name)]
            raise UsageError(code, f"This kernel (CONFIG_{name}) {reason}.", advice=advice)


def differences(one: KernelConfig, other: KernelConfig) -> dict[str, tuple[str, str]]:
    """Return the options that differ, without `ALLOWED_DIFFERENCES`: name to (value in `one`, value in `other`)."""
    names = sorted((set(one.values) | set(other.values)) - ALLOWED_DIFFERENCES)
    return {
        name: (one.get(name), other.get(name))
        for name in names
        if _comparable(one.get(name)) != _comparable(other.get(name))
    }


_REAL_TIME = (
    "The source lacks the patches for real time that the kernel has: give them in order (--base-patch). Those of a "
    "Debian kernel are in debian/patches-rt of its source package."
)
_CAUSES = (
    (r"(?:ARCH_SUPPORTS_RT|PREEMPT_RT|.*PREEMPT_LAZY|HAVE_ATOMIC_CONSOLE)", _REAL_TIME),
    (r"(?:HAVE_)?RUST.*|BINDGEN_.*", "The toolchain lacks the kernel's rustc, its rust-src or its bindgen."),
    (r"PAHOLE_.*|DEBUG_INFO_BTF.*", "The toolchain lacks the kernel's pahole."),
    (r"(?:HAVE_)?GCC_PLUGIN.*", "The toolchain lacks the headers of the compiler's plugins."),
    (r"(?:CC|GCC|CLANG|AS|LD|LLD|TOOLCHAIN)_(?:HAS|CAN|IS|VERSION|SUPPORT|NEEDS|HAVE).*",
     "The toolchain's compiler, assembler or linker is another one than the kernel's."),
)  # fmt: skip
_OTHER_SOURCE = "The source is of another version, or lacks a patch that the kernel has (--base-patch)."
_STOCK_SOURCE = (
    "The distribution built this kernel from another source than its packages hold: hosts must boot another kernel. "
    "Report the release."
)


def likely_causes(differing: Mapping[str, tuple[str, str]], *, stock: bool = False) -> list[str]:
    """Return the likely causes of options that differ, as `differences` returns them; each explains at least one.

    An option that belongs to no program of the toolchain differs because of the source. That of a `stock` kernel came
    from its own packages, with all patches that these name: nothing can be given in addition.
    """
    causes = []
    rest = set(differing)
    for pattern, cause in _CAUSES:
        explained = {name for name in rest if re.fullmatch(pattern, name)}
        if explained:
            causes.append(cause)
        rest -= explained
    # One missing patch takes away the options that depend on its own.
    if rest and not causes:
        causes.append(_OTHER_SOURCE)
    return [_STOCK_SOURCE if stock and cause in {_REAL_TIME, _OTHER_SOURCE} else cause for cause in causes]


def _comparable(value: str) -> str:
    # To the build, an empty string and a missing option mean the same.
    return value or "n"


def _refused(number: int, what: str) -> UsageError:
    place = f"Line {number} of the kernel configuration" if number else "The kernel configuration"
    return UsageError(
        "config-line", f"{place} {what}.", advice="Send the .config that the kernel was built with, unchanged."
    )
