# SPDX-License-Identifier: GPL-2.0-or-later
"""One frozen settings object per command: flags over environment over file over defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from elivepatch.files.secret import require_private
from elivepatch.model.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Directories, addresses and limits of a server (docs/settings.md).

    `state_dir` must be backed up: database, files of the store, keys. `cache_dir` can be made again: packages,
    toolchains, bases. `jobs` is the number of compilers that run at once. An empty text means: not used.
    """

    state_dir: Path = Path("/var/lib/elivepatch-server")
    cache_dir: Path = Path("/var/cache/elivepatch")
    host: str = "127.0.0.1"
    port: int = 8440
    jobs: int = os.cpu_count() or 1
    database: str = ""
    store: str = ""
    worker: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    trusted_proxies: str = ""
    overlays: str = ""
    requests_per_s: float = 200.0
    queue_limit: int = 1000
    tenant_limit: int = 200
    step_limit_s: float = 3600.0
    workload_s: float = 20.0
    disk_reserve_mib: int = 64
    keep_days: int = 90
    keep_hosts_days: int = 60
    hosts_per_token: int = 10_000
    legacy: str = ""
    legacy_tenant: str = "legacy"
    providers: str = "debian,packages,host,source"
    sources: str = ""
    packages: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Server of a client, and its time limits: for an answer, a transition, another command.

    `server_ca` is a PEM file with the authority of the server's certificate; an empty text means the authorities of the
    system. `client_certificate` and `client_key` are for servers that require one; an empty text means none.

    A boot skips a set if the machine went down without a shutdown after the set was loaded, and booted again within
    `boot_guard_s`. `limit_s` is the time that a command waits for a server in all. All times are in seconds.
    The last three say what the proof of a livepatch must contain before it is loaded. `require_trial` is the least
    outcome of the trial: `passed`, `partly` or `none`. `require_builders` are the builders that must have made it, with
    commas between them. `proof_days` is the greatest age in days, 0 for any.
    """

    url: str = "http://127.0.0.1:8440"
    token: str = ""
    server_ca: str = ""
    client_certificate: str = ""
    client_key: str = ""
    timeout_s: float = 30.0
    transition_s: float = 60.0
    lock_wait_s: float = 30.0
    boot_guard_s: float = 600.0
    limit_s: float = 3600.0
    require_trial: str = "passed"
    require_builders: str = ""
    proof_days: int = 0


CHOICES: dict[str, tuple[str, ...]] = {"require_trial": ("none", "partly", "passed")}
"""Values of each setting that is one of a few words."""

LISTS: dict[str, tuple[str, ...]] = {"require_builders": ("klp", "objects", "reference")}
"""Words of each setting that is a list of a few words, separated by commas."""

RANGES: dict[str, tuple[int, int]] = {
    "port": (0, 65_535),
    "jobs": (1, 1024),
    "requests_per_s": (1, 1_000_000),
    "queue_limit": (1, 1_000_000),
    "tenant_limit": (1, 1_000_000),
    "step_limit_s": (1, 604_800),
    "workload_s": (0, 600),
    "disk_reserve_mib": (0, 1 << 30),
    "keep_days": (1, 36_500),
    "keep_hosts_days": (1, 36_500),
    "hosts_per_token": (1, 1_000_000),
    "timeout_s": (1, 86_400),
    "transition_s": (0, 86_400),
    "lock_wait_s": (0, 86_400),
    "boot_guard_s": (0, 86_400),
    "limit_s": (1, 604_800),
    "proof_days": (0, 36_500),
}
"""Smallest and largest value of each setting that is a number."""

SECRETS = {"token": "a token", "database": "the password of the database"}
"""Settings that hold a secret; an address of a database does if it has an @."""

SERVER_FILE = Path("/etc/elivepatch/server.toml")
CLIENT_FILE = Path("/etc/elivepatch/client.toml")

_Settings = TypeVar("_Settings", ServerSettings, ClientSettings)


def load(
    default: _Settings, *, file: Path, flags: Mapping[str, Any], environ: Mapping[str, str], required: bool = False
) -> _Settings:
    """Return `default` changed by `file`, then by ELIVEPATCH_* variables, then by `flags` (None means not given).

    Raises UsageError for an unreadable file, an unknown key, a value of the wrong type or out of its range, and for a
    file with a secret that every user of the machine can read.
    """
    known = {field.name: type(getattr(default, field.name)) for field in fields(default)}
    values: dict[str, tuple[Any, str]] = {}
    for name, value in _from_file(file, set(known), required=required).items():
        values[name] = (value, f"in {file}")
    for name in known:
        variable = f"ELIVEPATCH_{name.upper()}"
        if variable in environ:
            values[name] = (environ[variable], f"in the variable {variable}")
        if flags.get(name) is not None:
            values[name] = (flags[name], "on the command line")
    return replace(
        default, **{name: _convert(name, value, known[name], place) for name, (value, place) in values.items()}
    )


def _from_file(file: Path, known: set[str], *, required: bool) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        import tomllib  # not before there is a file: `status` must start at once

        read: dict[str, Any] = tomllib.loads(text)
    except FileNotFoundError:
        if required:
            raise UsageError(
                "settings", f"{file} does not exist.", advice="Give an existing file with --config."
            ) from None
        return {}
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError(
            "settings", f"{file} cannot be read: {error}.", advice="Correct the file or move it away."
        ) from error
    for name, secret in SECRETS.items():
        if read.get(name) and (name == "token" or "@" in str(read[name])):
            require_private(file, secret)
    unknown = sorted(set(read) - known)
    if unknown:
        raise UsageError(
            "settings",
            f"{file} has a setting that does not exist: {unknown[0]}.",
            advice=f"Known settings: {', '.join(sorted(known))}.",
        )
    return read


def _convert(name: str, value: Any, kind: type, place: str) -> Any:
    if kind in {int, float}:
        low, high = RANGES[name]
        number = _number(value, kind)
        if number is not None and low <= number <= high:
            return number
        wanted = f"a {'whole ' if kind is int else ''}number from {low} to {high}"
    elif kind is str:
        words = CHOICES.get(name) or LISTS.get(name)
        chosen = {value} if name in CHOICES else {word.strip() for word in str(value).split(",")} - {""}
        if isinstance(value, str) and (words is None or chosen <= set(words)):
            return value
        wanted = "a text" if words is None else f"{'one' if name in CHOICES else 'some'} of {', '.join(words)}"
    else:
        # An empty text would mean the working directory.
        if isinstance(value, (str, Path)) and str(value):
            return Path(value)
        wanted = "the path of a directory"
    raise UsageError(
        "settings", f"{name} {place} is {str(value)[:80]!r}; it must be {wanted}.", advice="See docs/settings.md."
    )


def _number(value: Any, kind: type) -> int | float | None:
    """Return `value` as a number of this kind, None if it is not one; 3.5 and True are no whole numbers."""
    if isinstance(value, bool) or not isinstance(value, (str, int) if kind is int else (str, int, float)):
        return None
    try:
        number: int | float = kind(value)
    except (ValueError, OverflowError):
        return None
    return number
