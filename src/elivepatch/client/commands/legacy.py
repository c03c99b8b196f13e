# SPDX-License-Identifier: GPL-2.0-or-later
"""Translation of the command lines of the elivepatch-client of 2017 to 2019 (docs/migrating.md).

The old command had no subcommands, only options. Each of its command lines is translated into one of ours, and a line
on standard error shows it: scripts keep working and people learn the new form. This module registers no command.
"""

from __future__ import annotations

import argparse
import configparser
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

from elivepatch.model.errors import UsageError
from elivepatch.output import Output

_KEYS = {"config", "kernel_version", "url", "patch", "debug", "log_output", "cve", "clear"}
_TRUE = {"1", "yes", "true", "on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """An old command line, translated. `hints` are for people; messages go to `log_file` too, as -o requested."""

    argv: tuple[str, ...]
    hints: tuple[str, ...] = field(default=())
    log_file: Path | None = None


class Tee(io.TextIOBase):
    """Writes to two streams, as -o requested: messages go into a file too."""

    def __init__(self, shown: TextIO, file: TextIO) -> None:
        super().__init__()
        self._shown = shown
        self._file = file

    def write(self, text: str) -> int:
        """Write to both."""
        self._file.write(text)
        return self._shown.write(text)

    def flush(self) -> None:
        """Flush both."""
        self._file.flush()
        self._shown.flush()

    def isatty(self) -> bool:
        """Return False: a line that is rewritten on a terminal would be unreadable in the file."""
        return False


def run(argv: Sequence[str], command: Callable[[Sequence[str]], int], *, release: str) -> int:
    """Translate an old command line, show the new one, and run `command` with it; return its exit status."""
    try:
        translation = translate(argv, release=release)
        with ExitStack() as stack:
            if translation.log_file is not None:
                file = stack.enter_context(_log(translation.log_file))
                stack.enter_context(redirect_stderr(Tee(sys.stderr, file)))
            for hint in translation.hints:
                sys.stderr.write(f"hint: {hint}\n")
            return command(translation.argv)
    except UsageError as error:
        Output().problem(error.problem)
        return int(error.problem.kind.exit_status)


def _log(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "old-log", f"{path} cannot be written: {error.strerror}.", advice="Give another file with -o."
        ) from error


class _OldParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise UsageError; nothing is printed here."""
        raise UsageError(
            "usage", f"{message[0].upper()}{message[1:]}.", advice="See `elivepatch --help` and docs/migrating.md."
        )


def translate(argv: Sequence[str], *, release: str) -> Translation:
    """Return the new form of an old command line on a host that runs kernel `release`.

    Raises UsageError if the old form cannot be parsed, or requests something that must not be done.
    """
    given = _given(argv)
    if given["version"]:
        return Translation(argv=("--version",))
    hints = []
    if given["debug"]:
        hints.append("-d LEVEL is not needed: progress is shown on standard error, --json prints everything.")
    if given["clear"]:
        hints.append("-l is not needed: closed CVEs are read from the kernel, there is no file to clear.")
    if given["log_output"]:
        hints.append("-o FILE keeps working; the new form is `elivepatch ... 2>>FILE`.")
    if given["config"] and given["config"] != "/proc/config.gz":
        hints.append("-k is not needed: the server has the configuration of this build-id.")
    _require_running(given["kernel_version"], release)
    if given["cve"]:
        hints.append("the list of 2019 is gone: policy.toml chooses the CVEs to close and the places of fixes.")
        new = ["cve", "close"]
    elif given["patch"]:
        new = ["apply", given["patch"]]
    else:
        raise UsageError(
            "usage", "Neither a patch (-p) nor -e was given.", advice="The new form is `elivepatch apply PATCH`."
        )
    new += ["--url", given["url"]] if given["url"] else []
    return Translation(
        argv=tuple(new),
        hints=(f"this is the old form; the new one is `elivepatch {shlex.join(new)}`", *hints),
        log_file=Path(given["log_output"]) if given["log_output"] else None,
    )


def _given(argv: Sequence[str]) -> dict[str, Any]:
    first = _OldParser(add_help=False)
    first.add_argument("-c", "--conf_file")
    known, rest = first.parse_known_args(list(argv))
    parser = _OldParser(prog="elivepatch", add_help=False)
    parser.add_argument("-e", "--cve", action="store_true")
    parser.add_argument("-p", "--patch")
    parser.add_argument("-k", "--config")
    parser.add_argument("-a", "--kernel_version")
    parser.add_argument("-l", "--clear", action="store_true")
    parser.add_argument("-u", "--url")
    parser.add_argument("-d", "--debug")
    parser.add_argument("-o", "--log_output")
    parser.add_argument("-v", "--version", action="store_true")
    values = vars(parser.parse_args(rest))
    defaults = _ini(Path(known.conf_file)) if known.conf_file else {}
    return {name: value or defaults.get(name) for name, value in values.items()}


def _ini(file: Path) -> dict[str, Any]:
    reader = configparser.ConfigParser(interpolation=None)
    try:
        with file.open(encoding="utf-8") as stream:
            reader.read_file(stream)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise UsageError(
            "old-config", f"{file} cannot be read: {error}.", advice="Give an INI file with a section [Defaults]."
        ) from error
    if not reader.has_section("Defaults"):
        raise UsageError(
            "old-config",
            f"{file} has no section [Defaults].",
            advice="Put the settings below a line [Defaults]; new settings go into /etc/elivepatch/client.toml.",
        )
    values: dict[str, Any] = {name: value for name, value in reader.items("Defaults") if name in _KEYS}
    # "False" was true for the old client; here it is false.
    return values | {name: values[name].lower() in _TRUE for name in ("cve", "clear") if name in values}


def _require_running(version: str | None, release: str) -> None:
    """Raise UsageError if -a names another kernel than the running one; the old client loaded it all the same."""
    if version and release != version and not release.startswith((f"{version}-", f"{version}+", f"{version}.")):
        raise UsageError(
            "other-kernel",
            f"-a says {version}, but this host runs {release}.",
            advice="Leave -a out; `elivepatch build PATCH --kernel RELEASE` builds for another host.",
        )
