# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several commands share, and the values made of them; light, so that `status` starts at once.

This module registers no command.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from elivepatch.client.host import machine as machines
from elivepatch.client.options import ChangeOptions, host_settings
from elivepatch.output import Output
from elivepatch.settings import CHOICES, RANGES


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option of every command."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_changing(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that changes what is live."""
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=seconds_of("transition_s"),
        help="reverse a transition that takes longer (default: 60)",
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=seconds_of("lock_wait_s"),
        help="wait this long for another command to finish (default: 30)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="DANGEROUS: at the deadline force the transition instead of reversing it; tasks may then run a mixture of "
        "old and new code, and the modules involved can no longer be unloaded",
    )
    add_json(parser)


def add_module_files(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command that reads a livepatch from files."""
    parser.add_argument("module", metavar="FILE.ko", type=Path, help="the module from a server")
    parser.add_argument(
        "--proof", metavar="FILE", type=Path, help="its proof (default: FILE.ko.intoto.jsonl beside it)"
    )


def add_require_trial(parser: argparse.ArgumentParser) -> None:
    """Add the option of every command that installs a livepatch."""
    parser.add_argument(
        "--require-trial",
        choices=CHOICES["require_trial"],
        help="load it only if its trial passed, or at least partly did: `partly` means that an object of it was not "
        "live in the trial; `none` also loads one that was not tried (default: the setting require_trial)",
    )


def change_options(arguments: argparse.Namespace, output: Output) -> ChangeOptions:
    """Return the options of a command that changes this host and asks no server; warn of --force.

    Raises UsageError if a setting is malformed.
    """
    warn_of_force(arguments, output)
    host = machines.this_machine().host
    settings = host_settings(
        host,
        deadline_s=arguments.deadline,
        lock_wait_s=arguments.wait,
        require_trial=getattr(arguments, "require_trial", None),
    )
    return ChangeOptions(settings=settings, force=arguments.force)


def warn_of_force(arguments: argparse.Namespace, output: Output) -> None:
    """Warn people who give up the kernel's consistency with --force."""
    if arguments.force:
        output.note("warning: --force gives up the kernel's consistency: a task may run a mixture of old and new code.")


def seconds_of(setting: str) -> Callable[[str], float]:
    """Return the reader of an option that overrides `setting`; it accepts the same range and names the option."""
    low, high = RANGES[setting]

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            message = f"{text[:40]!r} is not a number of seconds from {low} to {high}"
            raise argparse.ArgumentTypeError(message)
        return number

    return read
