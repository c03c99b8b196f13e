# SPDX-License-Identifier: GPL-2.0-or-later
"""Inputs of an answer about CVEs: records, kernel sources and rankings; given, cached or fetched from a server."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.priority import Ranking, read_epss, read_kev
from elivepatch.advisory.exposure.sources import KernelSources
from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.index import decode_index, is_index, read_index
from elivepatch.advisory.records.legacy_records import with_older
from elivepatch.advisory.records.overrides import read_overrides
from elivepatch.advisory.records.record import CONTRADICTING, Findings, Records
from elivepatch.advisory.records.refresh import Refreshed, refresh_index
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.cve.options import IndexOptions, RankingOptions, RecordOptions, UpdateOptions
from elivepatch.client.host.identity import read_build_id, read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.options import TRUSTED_FILE
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.kernels import described_kernel, with_kernel
from elivepatch.client.server.patch_files import write_whole
from elivepatch.client.server.timeout import time_limit
from elivepatch.model.errors import HostError, UsageError
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Progress
from elivepatch.output import Output
from elivepatch.settings import ClientSettings
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.pins import read_pins

_NAMED = 10
_OLD_DAYS = 30
"""Days after which records are old: the list gets new CVEs every week, and the stable branches new fixes."""
_COLLECT_AFTER = 500_000


def records_of(options: RecordOptions, cache: CveCache, output: Output) -> Records:
    """Return the records from the source in the options, else from the cache; raises UsageError if neither has any."""
    source = record_source(options, cache)
    # Hundreds of thousands of objects live until the end: looking for cycles among them takes a tenth of a second.
    gc.set_threshold(_COLLECT_AFTER)
    records = read_index(source) if is_index(source) else read_records(source, progress=output.progress)
    return completed(records, options, output)


def record_source(options: RecordOptions, cache: CveCache) -> Path:
    """Return the given source of records, else the index in the cache; raises UsageError if there is none."""
    if options.source is not None:
        return options.source
    if not is_index(cache.records):
        raise UsageError(
            "cve-records-missing",
            "This host has no CVE records.",
            advice="Give the kernel's CVE list with --records, fetch them from a server with `elivepatch cve update`, "
            f"or make {cache.records} with `elivepatch cve index`.",
        )
    return cache.records


def completed(records: Records, options: RecordOptions, output: Output) -> Records:
    """Return the records with older and overriding ones; print what was set aside while they were read."""
    print_findings(records.findings, output)
    if options.older is not None:
        beside = Findings()
        records = with_older(records, options.older, beside)
        print_findings(beside, output)
    if options.overrides is not None:
        records = replace(records, overrides=read_overrides(options.overrides, records.listed))
    return records


def age_of(records: Records, machine: Machine) -> dict[str, Any]:
    """Return the date of the newest record and its age in days, for machines; None if it is not known."""
    if records.newest is None:
        return {"records_date": None, "records_age_days": None}
    return {
        "records_date": records.newest.date().isoformat(),
        "records_age_days": max((machine.clock.now() - records.newest).days, 0),
    }


def print_age(records: Records, machine: Machine, output: Output) -> None:
    """Print a note if the records are old, or do not show their age: they do not have the newest CVEs and fixes."""
    age = age_of(records, machine)
    if age["records_date"] is None:
        output.note("note: the age of these CVE records is not known; `elivepatch cve index` makes an index with it.")
    elif age["records_age_days"] > _OLD_DAYS:
        output.note(
            f"note: the newest of these CVE records is of {age['records_date']}, {age['records_age_days']} days ago: "
            "newer CVEs and fixes are not seen. Update them (docs/cve.md)."
        )


def ranking_of(options: RankingOptions) -> Ranking:
    """Return the ranking of CVEs; raises UsageError if a file cannot be used."""
    return Ranking(
        exploited=read_kev(options.kev) if options.kev else {},
        probability=read_epss(options.epss) if options.epss else {},
    )


def print_findings(findings: Findings, output: Output) -> None:
    """Name on standard error what was set aside, so that an answer never looks more complete than it is."""
    for found in [found for found in findings.named if found.code != CONTRADICTING][:_NAMED]:
        output.note(f"note: {found.name}: {found.message} [{found.code}]")
    if findings.total - findings.counts[CONTRADICTING] > _NAMED:
        counts = ", ".join(f"{count} {code}" for code, count in findings.counts.most_common())
        output.note(f"note: {findings.total} findings in all: {counts}; `elivepatch cve index --json` names them.")


def print_contradictions(records: Records, output: Output) -> None:
    """Name on standard error the records that say two things about a version."""
    names = [record.id for record in records.effective() if record.contradictory]
    if names:
        more = ", ..." if len(names) > _NAMED else ""
        output.note(
            f"note: {len(names)} records contradict themselves: {', '.join(names[:_NAMED])}{more}; "
            f"`elivepatch cve show` prints how. [{CONTRADICTING}]"
        )


def make_index(options: IndexOptions, output: Output) -> None:
    """Write an index and print its counts; only records that changed since the index before are read."""
    source = record_source(options.records, options.cache)
    made = _refreshed(options.output, source, options.records, output)
    print_findings(made.records.findings, output)
    print_findings(made.beside, output)
    print_contradictions(made.records, output)
    output.document({"file": str(options.output)} | made.as_dict() | age_of(made.records, options.machine))
    output.line(f"{options.output}: {made.sentence}")


def update_cache(options: UpdateOptions, output: Output) -> None:
    """Fetch the CVE records and a kernel's sources if they changed, and write them to the cache.

    With an output, only the sources are fetched and saved there.
    """
    machine = options.machine if options.release is None else None
    release = options.release or read_release(options.machine.host)
    describe = partial(described_kernel, options.machine.host, release)
    before, records = options.cache.raw_sources(release), None
    with server_time_limit(options.settings), advisory_server(options.machine, options.settings, output) as server:
        if options.output is not None:
            content = with_kernel(server, lambda: server.sources(release, known=None), describe, output.progress)
            write_whole(options.output, content)
            sources, changed = KernelSources.decode(content), True
        else:
            # Records first: they are useful for a kernel that the server does not know, too.
            records = _update_records(server, options.cache, output)
            sources = fetch_sources(
                server, options.cache, release, machine, describe=describe, progress=output.progress
            )
            changed = options.cache.raw_sources(release) != before
    built = sum(bool(parents) for parents in sources.sources.values())
    document: dict[str, Any] = {
        "release": sources.release,
        "build_id": sources.build_id,
        "vanilla": str(sources.vanilla),
        "package_version": sources.package_version,
        "sources": len(sources.sources),
        "built": built,
        "changelog": sources.changelog is not None,
        "changed": changed,
    }
    output.document(document if options.output is not None else document | {"records": records})
    output.line(
        f"{release}: Linux {sources.vanilla}, {built} of {len(sources.sources)} sources are built, "
        f"{'changelog known' if sources.changelog is not None else 'no changelog'}; {'new' if changed else 'unchanged'}"
    )


def _update_records(server: ServerClient, cache: CveCache, output: Output) -> Mapping[str, Any] | None:
    before = cache.raw_records()
    records = fetch_records(server, cache)
    if records is None:
        output.line("The server keeps no CVE records.")
        return None
    changed = cache.raw_records() != before
    output.line(f"{len(records.listed)} CVE records; {'new' if changed else 'unchanged'}")
    return {"count": len(records.listed), "changed": changed}


def advisory_server(machine: Machine, settings: ClientSettings, output: Output) -> ServerClient:
    """Return the server that the settings name; its answers must be signed by a key that this host pinned."""
    pins = read_pins(machine.host.path(TRUSTED_FILE))
    if not pins:
        output.note("note: this host trusts no server yet: signatures on answers about CVEs are not checked.")
    return ServerClient(settings, pinned=[PublicKey.from_hex(pin.public_key) for pin in pins])


def server_time_limit(settings: ClientSettings) -> AbstractContextManager[object]:
    """Return the time limit on all questions to a server; the kernel must not be changed within it."""
    return time_limit(settings.limit_s, left="Answers so far are kept: run the command again to continue.")


def fetch_records(server: ServerClient, cache: CveCache) -> Records | None:
    """Return the CVE records that the server offers, None if it has none; write them to the cache if new.

    Raises TrustError if they are damaged or not signed by a pinned key; the cache is untouched then.
    """
    known = cache.raw_records()
    content = server.records(known=known)
    if content is None:
        return None
    records = decode_index(content, "from the server")
    if content is not known:
        cache.keep_records(content)
    return records


def fetch_sources(
    server: ServerClient,
    cache: CveCache,
    release: str,
    machine: Machine | None,
    *,
    describe: Callable[[], KernelRequest],
    progress: Progress,
) -> KernelSources:
    """Return the sources of a kernel as the server knows them; write them to the cache if new.

    The server makes the base of a kernel that it lacks first; `describe` says which one it is. Raises HostError if
    `machine`, which runs the kernel, runs another build of it.
    """
    known = cache.raw_sources(release)
    content = with_kernel(server, lambda: server.sources(release, known=known), describe, progress)
    sources = KernelSources.decode(content)
    if machine is not None and sources.build_id != read_build_id(machine.host):
        raise HostError(
            "other-build",
            f"The server knows another build of {release}: its build-id is {sources.build_id}.",
            advice="Add this very kernel on the server, or boot the packaged one.",
        )
    if content is not known:
        cache.keep_sources(release, content)
    return sources


def current_records(source: Path, cache: CveCache, output: Output) -> Records:
    """Return the records in `source`; unless it is an index itself, bring the index in the cache up to date."""
    if is_index(source):
        return read_index(source)
    cache.make(cache.directory)
    return _refreshed(cache.records, source, RecordOptions(), output).records


def _refreshed(file: Path, source: Path, options: RecordOptions, output: Output) -> Refreshed:
    made = refresh_index(file, source, older=options.older, overrides=options.overrides, progress=output.progress)
    if made.rebuilt_because:
        output.note(f"note: {made.rebuilt_because} It is made from scratch.")
    return made
