# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve index|update`: making what questions are answered from, and fetching what a server knows."""

from __future__ import annotations

import argparse
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.sources import KernelSources
from elivepatch.advisory.records.index import decode_index, is_index, read_index
from elivepatch.advisory.records.record import Records
from elivepatch.advisory.records.refresh import Refreshed, refresh_index
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.cve.inputs import source_of, tell_findings
from elivepatch.client.cve.kernel_under_test import kept
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import read_build_id, read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.options import SETTINGS_FILE, TRUSTED_FILE
from elivepatch.client.server.advisories import AdvisoryServer
from elivepatch.client.server.connection import settings_of
from elivepatch.client.server.patch_files import write_whole
from elivepatch.client.server.timeout import time_limit
from elivepatch.model.errors import ExitStatus, HostError
from elivepatch.model.kernel import parse_release
from elivepatch.output import Output
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.pins import read_pins


def make_index(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Write an index, reading only what has changed where one is there already."""
    made = _refreshed(arguments.output, source_of(arguments), arguments.older, arguments.overrides, output)
    tell_findings(made.records.findings, output)
    tell_findings(made.beside, output)
    output.document({"file": str(arguments.output)} | made.as_dict())
    output.line(f"{arguments.output}: {made.sentence}")
    return ExitStatus.OK


def update(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Fetch the CVE records and what the server knows about a kernel, where they changed, and keep them.

    With an output, only what is known about the kernel is fetched and saved there.
    """
    machine = machines.this_machine()
    own = machine if arguments.kernel is None else None
    release = read_release(machine.host) if own is not None else parse_release(arguments.kernel)
    keep = kept(arguments)
    with asking_in_time(arguments), advisory_server(arguments, machine, output) as server:
        if arguments.output is not None:
            content = server.sources(release, known=None)
            write_whole(arguments.output, content)
            told, changed, document = KernelSources.decode(content), True, {}
        else:
            # First the records: they are of use for a kernel that the server does not know, too.
            document = {"records": _fetched(server, keep, output)}
            before = keep.raw_sources(release)
            told = fetch_sources(server, keep, release, own)
            changed = keep.raw_sources(release) != before
    built = sum(bool(parents) for parents in told.sources.values())
    output.document(
        {
            "release": told.release,
            "build_id": told.build_id,
            "vanilla": str(told.vanilla),
            "package_version": told.package_version,
            "sources": len(told.sources),
            "built": built,
            "changelog": told.changelog is not None,
            "changed": changed,
        }
        | document
    )
    output.line(
        f"{release}: Linux {told.vanilla}, {built} of {len(told.sources)} sources are built, "
        f"{'changelog known' if told.changelog is not None else 'no changelog'}; {'new' if changed else 'unchanged'}"
    )
    return ExitStatus.OK


def _fetched(server: AdvisoryServer, keep: CveCache, output: Output) -> dict[str, Any] | None:
    before = keep.raw_records()
    records = fetch_records(server, keep)
    if records is None:
        output.line("The server keeps no CVE records.")
        return None
    changed = keep.raw_records() != before
    output.line(f"{len(records.listed)} CVE records; {'new' if changed else 'unchanged'}")
    return {"count": len(records.listed), "changed": changed}


def advisory_server(arguments: argparse.Namespace, machine: Machine, output: Output) -> AdvisoryServer:
    """Return the server that the command line and the settings name, believed where a pinned key signed."""
    pins = read_pins(machine.host.path(TRUSTED_FILE))
    if not pins:
        output.note("note: this host trusts no server yet: nobody checks who signed what is told about CVEs.")
    settings = settings_of(arguments, environ=os.environ, file=machine.host.path(SETTINGS_FILE))
    return AdvisoryServer(settings, pinned=[PublicKey.from_hex(pin.public_key) for pin in pins])


def asking_in_time(arguments: argparse.Namespace) -> AbstractContextManager[object]:
    """Return the time limit on all that is asked of a server; the kernel must not be changed within it."""
    file = machines.this_machine().host.path(SETTINGS_FILE)
    settings = settings_of(arguments, environ=os.environ, file=file)
    return time_limit(settings.limit_s, left="What was answered is kept: run the command again to go on.")


def fetch_records(server: AdvisoryServer, keep: CveCache) -> Records | None:
    """Return the CVE records that the server hands out, and keep them where they are new; None where it has none.

    Raises TrustError where they are damaged or not signed by a pinned key; what is kept is untouched then.
    """
    known = keep.raw_records()
    content = server.records(known=known)
    if content is None:
        return None
    records = decode_index(content, "from the server")
    if content is not known:
        keep.keep_records(content)
    return records


def fetch_sources(server: AdvisoryServer, keep: CveCache, release: str, own: Machine | None) -> KernelSources:
    """Return what the server knows about a kernel, and keep it where it is new.

    Raises HostError where `own`, the machine that runs it, runs another build of it.
    """
    known = keep.raw_sources(release)
    content = server.sources(release, known=known)
    told = KernelSources.decode(content)
    if own is not None and told.build_id != read_build_id(own.host):
        raise HostError(
            "other-build",
            f"The server knows another build of {release}: its build-id is {told.build_id}.",
            advice="Add this very kernel on the server, or boot the packaged one.",
        )
    if content is not known:
        keep.keep_sources(release, content)
    return told


def current_records(source: Path, keep: CveCache, output: Output) -> Records:
    """Return the records in `source`, and bring the kept index up to date with them where `source` is none itself."""
    if is_index(source):
        return read_index(source)
    keep.make(keep.directory)
    return _refreshed(keep.records, source, None, None, output).records


def _refreshed(file: Path, source: Path, older: Path | None, overrides: Path | None, output: Output) -> Refreshed:
    made = refresh_index(file, source, older=older, overrides=overrides, progress=output.progress)
    if made.anew:
        output.note(f"note: {made.anew} It is made anew.")
    return made
