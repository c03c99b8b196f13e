# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of all that a server needs to work here, each with advice if it fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from obstore.exceptions import BaseError

from elivepatch.build.providers.choice import check_providers, provider_names
from elivepatch.build.roots.declared import declarations
from elivepatch.build.sandbox.cgroup import PROCESSES, own_group
from elivepatch.files.secret import require_private
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.process import SEARCH_PATH
from elivepatch.service.db.database import current_revision, database_url, open_database
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.state_directory import DATABASE_FILE, STORE_DIRECTORY
from elivepatch.service.store import Store
from elivepatch.settings import ServerSettings

ENVIRONMENT_FILE = Path("/etc/elivepatch/server.env")
"""File with variables that the units of systemd give the server; the server itself never reads it."""

_PROGRAMS = {
    "mmdebstrap": "makes toolchains",
    "qemu-system-x86_64": "runs trials",
    "busybox": "provides the programs of trials",
    "cpio": "packs their initial file system",
    "setpriv": "drops privileges before the sandbox",
    "dpkg-deb": "unpacks packages of kernels",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Result of one check. `advice` is empty if `well` is True."""

    what: str
    well: bool
    seen: str
    advice: str = ""


def look(settings: ServerSettings) -> list[Check]:
    """Return the results of all checks. They change nothing, except that a small file is stored and removed again."""
    checks = [
        _guarded("state directory", lambda: _state(settings)),
        _guarded("database", lambda: _database(settings)),
    ]
    checks += [_guarded("store", lambda: _store(settings)), _guarded("disk", lambda: _disk(settings))]
    checks += [_guarded("cache directory", lambda: _cache(settings)), _guarded("memory of builds", _memory)]
    checks += [_program(name, purpose) for name, purpose in _PROGRAMS.items()]
    checks += [_guarded("toolchains", lambda: _toolchains(settings)), _guarded("kernels", lambda: _kernels(settings))]
    return [*checks, *_tls(settings), *_secrets()]


def _guarded(what: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except ElivepatchError as error:
        return Check(what=what, well=False, seen=error.problem.message, advice=error.problem.advice)
    except (OSError, sa.exc.DBAPIError, BaseError) as error:
        seen = str(error).splitlines()[0][:200]
        return Check(what=what, well=False, seen=seen, advice="Check that it runs, answers and accepts this user.")


def _state(settings: ServerSettings) -> Check:
    state = settings.state_dir
    if not state.is_dir():
        return Check(what="state directory", well=True, seen=f"{state}: the first start creates it")
    private = state.stat().st_mode & 0o077 == 0
    mine = os.access(state, os.R_OK | os.W_OK | os.X_OK)
    return Check(
        what="state directory",
        well=private and mine,
        seen=f"{state}: {'private' if private else 'open to others'}, {'accessible' if mine else 'not accessible'}",
        advice="" if private and mine else f"chown and chmod 700 {state} for the server's user.",
    )


def _database(settings: ServerSettings) -> Check:
    url = database_url(settings)
    if not settings.database and not (settings.state_dir / DATABASE_FILE).exists():
        return Check(what="database", well=True, seen="SQLite: the first start creates it")
    engine = open_database(url)
    try:
        revision = current_revision(engine)
        return Check(what="database", well=True, seen=f"{engine.dialect.name}: answers, tables of {revision}")
    finally:
        engine.dispose()


def _store(settings: ServerSettings) -> Check:
    place = settings.state_dir / STORE_DIRECTORY
    if not settings.store and not place.is_dir():
        return Check(what="store", well=True, seen="directory: the first start creates it")
    (Store.at(settings.store) if settings.store else Store.in_directory(place)).check()
    return Check(what="store", well=True, seen=f"{settings.store or place}: stores and returns files")


def _disk(settings: ServerSettings) -> Check:
    places = [place for place in (settings.state_dir, settings.cache_dir) if place.is_dir()] or [Path("/")]
    free = min(shutil.disk_usage(place).free for place in places) >> 20
    enough = free >= max(settings.disk_reserve_mib, 2048)
    return Check(
        what="disk",
        well=enough,
        seen=f"{free} MiB free",
        advice="" if enough else "Make room: a toolchain takes about 2 GiB, a kernel about 3.",
    )


def _cache(settings: ServerSettings) -> Check:
    cache = settings.cache_dir.absolute()
    closed = [str(place) for place in (cache, *cache.parents) if place.is_dir() and not place.stat().st_mode & 0o001]
    return Check(
        what="cache directory",
        well=not closed,
        seen=f"{closed[0]} is closed to others" if closed else f"{cache}: open to the sandbox's user",
        advice=f"chmod o+x {closed[0]}: programs in the sandbox read the cache as an unprivileged user."
        if closed
        else "",
    )


def _memory() -> Check:
    group = own_group()
    if group is None:
        return Check(
            what="memory of builds",
            well=False,
            seen="each program has a limit, all programs of a build together have none",
            advice="Run as root, or by systemd with Delegate=memory pids: a build then gets a control group.",
        )
    counted = f" and {PROCESSES} processes" if group.counted is not None else ", their number is not bounded"
    seen = f"at most {group.limit >> 20} MiB{counted} for all programs of a build (control group v{group.version})"
    group.remove()
    return Check(what="memory of builds", well=True, seen=seen)


def _program(name: str, purpose: str) -> Check:
    found = shutil.which(name, path=SEARCH_PATH)
    return Check(
        what=name,
        well=found is not None,
        seen=found or f"missing; it {purpose}",
        advice="" if found else "Install the packages of packaging/debian-packages.txt.",
    )


def _toolchains(settings: ServerSettings) -> Check:
    present = [toolchain.name for toolchain in LocalBackend(settings).toolchains.list() if toolchain.current]
    can = f"{len(declarations())} are made when a kernel needs them"
    return Check(what="toolchains", well=True, seen=f"{', '.join(present) or 'none yet'}; {can}")


def _kernels(settings: ServerSettings) -> Check:
    backend = LocalBackend(settings)
    kernels = [kernel.release for kernel in backend.kernels()]
    for release in kernels:
        try:
            backend.facts(release)
        except EnvironmentFault as fault:
            problem = fault.problem
            return Check(what="kernels", well=False, seen=f"{release}: {problem.message}", advice=problem.advice)
    providers = provider_names(settings.providers)
    check_providers(settings.providers, settings.sources, settings.packages)
    on_request = f"others are made on request ({', '.join(providers)})" if providers else "none is made on request"
    return Check(
        what="kernels",
        well=bool(kernels or providers),
        seen=f"{', '.join(kernels) or 'none yet'}; {on_request}",
        advice="" if kernels or providers else "Run `elivepatch-server kernel add debian-13`, or set `providers`.",
    )


def _secrets(file: Path = ENVIRONMENT_FILE) -> Iterator[Check]:
    try:
        require_private(file, "secrets of the database and the store")
    except UsageError as error:
        yield Check(what="secrets", well=False, seen=error.problem.message, advice=error.problem.advice)


def _tls(settings: ServerSettings) -> Iterator[Check]:
    local = settings.host in {"127.0.0.1", "::1", "localhost"}
    if not settings.tls_certificate and not local:
        yield Check(
            what="TLS",
            well=False,
            seen=f"listens on {settings.host} without TLS",
            advice="Give --tls-certificate, or let a proxy speak TLS and listen on loopback.",
        )
