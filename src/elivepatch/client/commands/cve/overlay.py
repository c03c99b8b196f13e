# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch overlay`: subscribe to collections of source patches, and check one that you maintain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.version import KernelVersion, parse_kernel_version
from elivepatch.advisory.fixes.fixes import PATCH_MAX
from elivepatch.advisory.overlay import old_format as overlayold
from elivepatch.advisory.overlay import overlay as overlays
from elivepatch.advisory.overlay.overlay import Overlay, OverlayEntry
from elivepatch.advisory.overlay.plain_yaml import TEXT_MAX
from elivepatch.advisory.overlay.repository import predicate_at
from elivepatch.advisory.records.record import plain
from elivepatch.client.commands.cve.cve import add_cache, cache_of
from elivepatch.client.commands.options import add_json
from elivepatch.client.cve.subscriptions import Subscription, Subscriptions
from elivepatch.client.host import machine as machines
from elivepatch.commandline import Command, Subparsers
from elivepatch.files.bounded import Unusable, read_regular
from elivepatch.model.errors import ElivepatchError, ExitStatus, UsageError
from elivepatch.model.trial import check_expectations
from elivepatch.output import Output

_SIGNERS_MAX = 256 * 1024
_LISTED = 20


def register(subparsers: Subparsers) -> None:
    """Add `overlay` and its subcommands to the command line."""
    overlay = subparsers.add_parser(
        "overlay", help="collections of source patches to subscribe to", description=__doc__, allow_abbrev=False
    )
    commands = overlay.add_subparsers(title="commands", metavar="COMMAND", required=True)

    add = _add(commands, "add", "subscribe to an overlay", add_overlay)
    add.add_argument("name", metavar="NAME", help="its name on this host")
    add.add_argument("url", metavar="URL", help="a git repository: https://, ssh:// or file://")
    add.add_argument(
        "--signers",
        metavar="FILE",
        type=Path,
        required=True,
        help="the keys that may sign it: a file of allowed signers, ssh-keygen(1)",
    )
    add.add_argument("--branch", default="", help="the branch to follow (default: the repository's own)")
    add.add_argument(
        "--precedence", type=int, default=0, help="overlays with a higher number are asked first (default: 0)"
    )
    _add(commands, "list", "the overlays this host is subscribed to", list_overlays)
    update = _add(commands, "update", "fetch new commits", update_overlays)
    update.add_argument("names", metavar="NAME", nargs="*", help="the overlays to update (default: all)")
    show = _add(commands, "show", "the entries of an overlay", show_overlay)
    show.add_argument("name", metavar="NAME")
    show.add_argument("entry", metavar="ID", nargs="?", help="only this entry")
    show.add_argument("--kernel", metavar="VERSION", help="only entries for this vanilla version")
    remove = _add(commands, "remove", "unsubscribe; livepatches that are live stay live", remove_overlay)
    remove.add_argument("name", metavar="NAME")
    lint = _add(commands, "lint", "check an overlay that you maintain, before you commit", lint_overlay)
    lint.add_argument("directory", metavar="DIR", type=Path)


def _add(commands: Subparsers, name: str, help_text: str, run: Command) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, allow_abbrev=False)
    add_cache(parser)
    add_json(parser)
    parser.set_defaults(run=run)
    return parser


def add_overlay(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Subscribe, if the newest commit is signed by an allowed key."""
    read = read_regular(arguments.signers, _SIGNERS_MAX)
    if isinstance(read, Unusable):
        raise UsageError(
            "overlay-signers",
            f"{arguments.signers} cannot be used: {read.why}",
            advice='Write one line for each key: NAME namespaces="git" ssh-ed25519 AAAA...',
        )
    found = _subscriptions(arguments).add(
        arguments.name,
        arguments.url,
        branch=arguments.branch,
        precedence=arguments.precedence,
        signers=read[0],
    )
    output.document(_described(found, found.accepted.overlay))
    _print(found, output)
    return ExitStatus.OK


def list_overlays(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print the subscriptions in the order in which they are asked."""
    found = [_described(one, one.accepted.overlay) for one in _subscriptions(arguments).all()]
    output.document(found)
    if found:
        keys = ("name", "precedence", "commit", "entries", "findings", "url")
        output.table([key.upper() for key in keys], [[str(one[key])[:60] for key in keys] for one in found])
    else:
        output.line("This host is subscribed to no overlay.")
    return ExitStatus.OK


def update_overlays(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Fetch every overlay; one that cannot be fetched or is not signed is reported and keeps no other from it."""
    subscriptions = _subscriptions(arguments)
    chosen = [subscriptions.get(name) for name in arguments.names] if arguments.names else subscriptions.all()
    results: list[dict[str, Any]] = []
    worst = ExitStatus.OK
    for one in chosen:
        try:
            changed = one.repository.update()
        except ElivepatchError as error:
            results.append({"name": one.name, "problem": error.problem.as_dict()})
            output.note(f"error: {one.name}: {error.problem.message} [{error.problem.code}]")
            worst = max(worst, error.problem.kind.exit_status)
        else:
            results.append({"name": one.name, "changed": changed, "commit": one.repository.accepted})
            output.line(f"{one.name}: {'new' if changed else 'unchanged'}, {one.repository.accepted[:12]}")
    output.document(results)
    return worst


def show_overlay(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print an overlay's entries, or one of them."""
    found = _subscriptions(arguments).get(arguments.name)
    overlay = found.accepted.overlay
    kernel = parse_kernel_version(arguments.kernel) if arguments.kernel else None
    if arguments.entry is not None and arguments.entry not in overlay.entries:
        raise UsageError(
            "overlay-entry-unknown",
            f"{arguments.name} has no usable entry {plain(arguments.entry, 80)!r}.",
            advice=f"`elivepatch overlay show {arguments.name}` lists the entries, and those that were set aside.",
        )
    chosen = [one for one in overlay.entries.values() if _wanted(one, arguments.entry, kernel)]
    output.document(_described(found, overlay) | {"patches": [_entry_dict(one) for one in chosen]})
    _print(found, output)
    rows = [
        (one.id, " ".join(one.cves), " ".join(range_.text for range_ in one.kernels), one.licence, one.title[:60])
        for one in chosen
    ]
    if rows:
        output.table(("ID", "CVES", "KERNELS", "LICENCE", "TITLE"), rows)
    _print_findings(overlay, output)
    return ExitStatus.OK


def remove_overlay(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Unsubscribe."""
    _subscriptions(arguments).remove(arguments.name)
    output.document({"removed": arguments.name})
    output.line(f"{arguments.name} is removed. Livepatches that are live stay live.")
    return ExitStatus.OK


def lint_overlay(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Check the overlay in a directory as a subscriber would read it; status 1 if an entry would be left out."""
    top: Path = arguments.directory

    def exists(path: str) -> bool:
        return not isinstance(read_regular(top / path, PATCH_MAX), Unusable)

    overlay = None
    for file, read in ((overlays.FILE, overlays.read_overlay), (overlayold.FILE, _old)):
        content = read_regular(top / file, TEXT_MAX)
        if not isinstance(content, Unusable):
            overlay = read(content[0], exists)
            break
    if overlay is None:
        raise UsageError(
            "overlay-missing",
            f"{top} has no {overlays.FILE}.",
            advice="Give the directory of an overlay; docs/overlays.md shows what is in one.",
        )
    _check_predicates(overlay, top)
    output.document(
        {
            "name": overlay.name,
            "entries": len(overlay.entries),
            "findings": [
                {"code": one.code, "about": one.name, "message": one.message} for one in overlay.findings.named
            ],
        }
    )
    for one in overlay.findings.named:
        output.line(f"{one.name}: {one.message} [{one.code}]")
    output.line(f"{len(overlay.entries)} usable entries, {overlay.findings.total} findings")
    return ExitStatus.FAILED if overlay.findings.total else ExitStatus.OK


def _old(content: bytes, exists: Any) -> Overlay:
    return overlayold.read_old_overlay(content, exists, "old")


def _wanted(entry: OverlayEntry, name: str | None, kernel: KernelVersion | None) -> bool:
    return (name is None or entry.id == name) and (kernel is None or entry.fits(kernel))


def _described(found: Subscription, overlay: Overlay) -> dict[str, Any]:
    return {
        "name": found.name,
        "url": found.url,
        "branch": found.branch,
        "precedence": found.precedence,
        "commit": found.repository.accepted,
        "maintainer": overlay.maintainer,
        "entries": len(overlay.entries),
        "findings": overlay.findings.total,
    }


def _check_predicates(overlay: Overlay, top: Path) -> None:
    """Add a finding for each entry with a predicate that cannot be one: a subscriber would have no fix from it."""

    def content(path: str) -> bytes | None:
        read = read_regular(top / path, PATCH_MAX)
        return None if isinstance(read, Unusable) else read[0]

    for entry in overlay.entries.values():
        try:
            check_expectations(tuple(predicate_at(path, content) for path in entry.predicates))
        except UsageError as error:
            overlay.findings.add("overlay-entry", entry.id, error.problem.message)


def _entry_dict(entry: OverlayEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "title": entry.title,
        "files": list(entry.files),
        "commit": entry.commit,
        "cves": list(entry.cves),
        "kernels": [one.text for one in entry.kernels],
        "order": entry.order,
        "requires": list(entry.requires),
        "expect": [*(f"{one.command} =~ {one.pattern}" for one in entry.expect), *entry.predicates],
        "licence": entry.licence,
        "author": entry.author,
    }


def _print(found: Subscription, output: Output) -> None:
    overlay = found.accepted.overlay
    output.line(
        f"{found.name}: {len(overlay.entries)} entries at {found.repository.accepted[:12]}, "
        f"{overlay.findings.total} set aside; from {found.url}"
    )


def _print_findings(overlay: Overlay, output: Output) -> None:
    for one in overlay.findings.named[:_LISTED]:
        output.note(f"note: {one.name}: {one.message} [{one.code}]")
    if overlay.findings.total > _LISTED:
        output.note(f"note: {overlay.findings.total} findings in all.")


def _subscriptions(arguments: argparse.Namespace) -> Subscriptions:
    return Subscriptions(cache_of(arguments, machines.this_machine()))
