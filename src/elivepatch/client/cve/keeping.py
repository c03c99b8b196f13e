# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve index|update`: making what questions are answered from, and fetching what a server knows."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from elivepatch.advisory.collect import read_records
from elivepatch.advisory.index import is_index, read_index, write_index
from elivepatch.advisory.record import Records
from elivepatch.advisory.sources import KernelSources
from elivepatch.client.connection import settings_of
from elivepatch.client.cve.inputs import records_of
from elivepatch.client.cve.kept import Kept
from elivepatch.client.cve.server import AdvisoryServer
from elivepatch.client.cve.subject import kept
from elivepatch.client.files import write_whole
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import read_build_id, read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.options import SETTINGS_FILE
from elivepatch.model.errors import ExitStatus, HostError, TrustError, UsageError
from elivepatch.model.kernel import parse_release
from elivepatch.output import Output


def make_index(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Write an index, reading only what has changed where one is there already."""
    previous = None
    if is_index(arguments.output):
        try:
            previous = read_index(arguments.output)
        except (UsageError, TrustError) as error:
            output.note(f"note: {error.problem.message} It is made anew.")
    records = records_of(arguments, output, previous)
    size = write_index(records, arguments.output)
    known = previous.listed if previous is not None else {}
    unchanged = sum(known.get(name) is record for name, record in records.listed.items())
    output.document(
        {
            "file": str(arguments.output),
            "size_bytes": size,
            "records": len(records.listed),
            "unchanged": unchanged,
            "overrides": len(records.overrides),
            "rejected": len(records.rejected),
            "set_aside": dict(records.findings.counts),
            "findings": [asdict(found) for found in records.findings.named],
        }
    )
    output.line(
        f"{arguments.output}: {len(records.listed)} records ({unchanged} unchanged), {len(records.rejected)} rejected, "
        f"{len(records.overrides)} overrides, {records.findings.total} findings, {size / 1e6:.1f} MB"
    )
    return ExitStatus.OK


def update(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Fetch what the server knows about a kernel, where it changed, and keep it or save it."""
    machine = machines.this_machine()
    own = machine if arguments.kernel is None else None
    release = read_release(machine.host) if own is not None else parse_release(arguments.kernel)
    keep = kept(arguments)
    settings = settings_of(arguments, environ=os.environ, file=machine.host.path(SETTINGS_FILE))
    with AdvisoryServer(settings) as server:
        if arguments.output is not None:
            content = server.sources(release, known=None)
            write_whole(arguments.output, content)
            told, changed = KernelSources.decode(content), True
        else:
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
    )
    output.line(
        f"{release}: Linux {told.vanilla}, {built} of {len(told.sources)} sources are built, "
        f"{'changelog known' if told.changelog is not None else 'no changelog'}; {'new' if changed else 'unchanged'}"
    )
    return ExitStatus.OK


def fetch_sources(server: AdvisoryServer, keep: Kept, release: str, own: Machine | None) -> KernelSources:
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


def current_records(source: Path, keep: Kept, output: Output) -> Records:
    """Return the records in `source`, and bring the kept index up to date with them where `source` is none itself.

    Only what changed since is read; nothing is written where that is nothing.
    """
    if is_index(source):
        return read_index(source)
    previous = None
    if is_index(keep.records):
        try:
            previous = read_index(keep.records)
        except (UsageError, TrustError) as error:
            output.note(f"note: {error.problem.message} It is made anew.")
    records = read_records(source, progress=output.progress, previous=previous)
    same = previous is not None and (records.listed, records.rejected) == (previous.listed, previous.rejected)
    if not same or records.marks != (previous.marks if previous is not None else {}):
        keep.make(keep.directory)
        write_index(records, keep.records)
    return records
