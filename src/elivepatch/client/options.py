# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the client's commands as values, and the files that hold its settings.

A command makes these once from its arguments (elivepatch.client.commands.options). They travel down unchanged. This
module imports nothing heavy: `status` must start at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from elivepatch.client.host.machine import Host
from elivepatch.settings import ClientSettings, load

SETTINGS_FILE = "etc/elivepatch/client.toml"
TRUSTED_FILE = "etc/elivepatch/trusted.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeOptions:
    """Options of a command that changes what is live; with `force` a transition is forced at its deadline."""

    settings: ClientSettings
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of a command that talks to a server: its URL, a file with a token, and the time limit in seconds.

    None leaves a setting to the environment and client.toml.
    """

    url: str | None = None
    token_file: Path | None = None
    limit_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePatchOptions:
    """Patches that the kernel was built with: `files`, or those that the package manager keeps here unless `none`."""

    files: tuple[Path, ...] = ()
    none: bool = False


def host_settings(
    host: Host, *, deadline_s: float | None = None, lock_wait_s: float | None = None, require_trial: str | None = None
) -> ClientSettings:
    """Return the settings for work on this host; raises UsageError if one is malformed.

    `deadline_s` and `lock_wait_s`, in seconds, and `require_trial` override settings.
    """
    flags = {"transition_s": deadline_s, "lock_wait_s": lock_wait_s, "require_trial": require_trial}
    return load(ClientSettings(), file=host.path(SETTINGS_FILE), flags=flags, environ=os.environ)
