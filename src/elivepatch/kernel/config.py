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


def differences(one: KernelConfig, other: KernelConfig) -> dict[str, tuple[str, str]]:
    """Return the options that differ, without `ALLOWED_DIFFERENCES`: name to (value in `one`, value in `other`)."""
    names = sorted((set(one.values) | set(other.values)) - ALLOWED_DIFFERENCES)
    return {
        name: (one.get(name), other.get(name))
        for name in names
        if _comparable(one.get(name)) != _comparable(other.get(name))
    }


def _comparable(value: str) -> str:
    # To the build, an empty string and a missing option mean the same.
    return value or "n"


def _refused(number: int, what: str) -> UsageError:
    place = f"Line {number} of the kernel configuration" if number else "The kernel configuration"
    return UsageError(
        "config-line", f"{place} {what}.", advice="Send the .config that the kernel was built with, unchanged."
    )
