# SPDX-License-Identifier: GPL-2.0-or-later
"""Options and settings of the commands that work on this host; light, so that `status` can begin at once."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable

from elivepatch.client.host.machine import Host
from elivepatch.settings import RANGES, ClientSettings, load

SETTINGS_FILE = "etc/elivepatch/client.toml"
TRUSTED_FILE = "etc/elivepatch/trusted.json"


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
        help="how long to wait for another command to finish (default: 30)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="DANGEROUS: at the deadline force the transition instead of reversing it; tasks may then run old and new "
        "code mixed, and modules can no longer be unloaded",
    )
    add_json(parser)


def seconds_of(setting: str) -> Callable[[str], float]:
    """Return how an option that goes before `setting` is read; it names itself where its value is out of range."""
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


def host_settings(arguments: argparse.Namespace, host: Host) -> ClientSettings:
    """Return the settings for work on this host; raises UsageError where one is malformed."""
    flags = {
        "transition_s": getattr(arguments, "deadline", None),
        "lock_wait_s": getattr(arguments, "wait", None),
    }
    return load(ClientSettings(), file=host.path(SETTINGS_FILE), flags=flags, environ=os.environ)
