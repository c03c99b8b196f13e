# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch doctor`: report what would keep a livepatch from loading on this host, and what to do about it."""

from __future__ import annotations

import argparse
import os

from elivepatch.client.commands.options import add_json
from elivepatch.client.host import machine as machines
from elivepatch.client.host.doctor import examine
from elivepatch.client.host.findings import Finding, Level, fine, note, stop
from elivepatch.client.host.identity import find_config, gentoo_patches, read_identity, read_release
from elivepatch.client.host.machine import Host, Machine
from elivepatch.client.host.reload import reload_finding
from elivepatch.client.host.sysfs import read_livepatches
from elivepatch.client.livepatch.boot_guard import why_skipped
from elivepatch.client.livepatch.store import DIRECTORY, Store
from elivepatch.client.options import TRUSTED_FILE
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ElivepatchError, ExitStatus, HostError
from elivepatch.output import Output
from elivepatch.trust.pins import read_pins

_ROOM_BYTES = 64 << 20


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "doctor", help="report what would keep a livepatch from loading", description=__doc__, allow_abbrev=False
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(_arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Run all checks and print the findings; the status is 6 if one stops livepatches."""
    machine = machines.this_machine()
    findings = (*examine(machine.host), *_around(machine))
    output.document(
        {
            "kernel": _kernel(machine.host),
            "base_patches": _base_patches(machine.host),
            "findings": [one.as_dict() for one in findings],
        }
    )
    for one in findings:
        sign = {Level.OK: "ok  ", Level.NOTE: "note", Level.STOP: "STOP"}[one.level]
        output.line(f"{sign}  {one.message}{'' if one.level is Level.OK else f' [{one.code}]'}")
        if one.advice:
            output.line(f"      {one.advice}")
    stops = [one for one in findings if one.level is Level.STOP]
    output.line(
        f"{len(stops)} of {len(findings)} findings keep livepatches from loading."
        if stops
        else "Livepatches can be loaded."
    )
    return ExitStatus.HOST if stops else ExitStatus.OK


def _around(machine: Machine) -> list[Finding]:
    """Check what the client itself needs."""
    return [
        _state(machine.host),
        _record(machine.host),
        _others(machine.host),
        _trust(machine.host),
        _patches(machine.host),
        reload_finding(machine.host),
    ]


def _state(host: Host) -> Finding:
    place = host.path(DIRECTORY)
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return stop(
            "state-unwritable",
            f"{place} cannot be written, so no change could be recorded.",
            "Run it as root; remount the file system read-write.",
        )
    room = os.statvfs(place)
    if room.f_bavail * room.f_frsize < _ROOM_BYTES:
        return stop("state-full", f"{place} has less than 64 MiB left.", "Make room before a livepatch is loaded.")
    return fine("state", f"{place} can be written")


def _record(host: Host) -> Finding:
    try:
        store = Store.of(host)
        record, skipped, others = store.record(), why_skipped(store), store.other_kernels()
    except HostError as error:
        return note(error.problem.code, error.problem.message, error.problem.advice)
    if skipped:
        return note(
            "boot-skipped",
            f"{', '.join(record.set.names)} is not loaded at boot: {skipped}.",
            "Find out what happened, then `elivepatch boot --clear-guard`, or drop it with `elivepatch unload NAME`.",
        )
    if others.unreadable:
        return note(
            "record-unreadable",
            f"{others.unreadable[0]}, the record of another kernel, cannot be read.",
            "Install the elivepatch that wrote it, or move it away; until then no old file is removed here.",
        )
    return fine("record", f"the record of this kernel can be read: set {record.current}")


def _others(host: Host) -> Finding:
    try:
        known = Store.of(host).record().known
    except HostError:
        known = {}
    foreign = [one.name for one in read_livepatches(host) if one.name not in known]
    if foreign:
        return note(
            "foreign-livepatch",
            f"{', '.join(foreign)} is live and was not loaded by elivepatch: a build that replaces would remove it.",
            "Put its source patch into your series and unload it, or use `elivepatch apply --stack`.",
        )
    return fine("others", "every livepatch here was loaded by elivepatch")


def _trust(host: Host) -> Finding:
    try:
        pins = read_pins(host.path(TRUSTED_FILE))
    except ElivepatchError as error:
        return stop(error.problem.code, error.problem.message, error.problem.advice)
    if not pins:
        return note("not-enrolled", "This host trusts no server yet.", "Run `elivepatch enroll URL`.")
    return fine("trust", f"trusted: {', '.join(pin.url for pin in pins)}")


def _patches(host: Host) -> Finding:
    found = _base_patches(host)
    if found:
        return note(
            "base-patches",
            f"{len(found)} user patches are in this kernel's source, the first is {found[0]['name']}.",
            "The base on the server must be made with them: `elivepatch apply` names them and the server compares.",
        )
    return fine("base-patches", "no user patches of a package manager were found")


def _base_patches(host: Host) -> list[dict[str, str]]:
    try:
        patches = gentoo_patches(host, read_release(host), os.environ.get("PORTAGE_CONFIGROOT", ""))
    except HostError:
        return []
    return [{"name": patch.name, "digest": patch.digest} for patch in patches]


def _kernel(host: Host) -> dict[str, str | None] | None:
    try:
        identity = read_identity(host)
    except HostError:
        return None
    config = find_config(host, identity.release)
    return {**identity.as_dict(), "config_source": config.source if config is not None else None}
