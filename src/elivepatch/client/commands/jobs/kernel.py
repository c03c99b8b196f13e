# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch kernel`: give the server the running kernel, so that it can build livepatches for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from elivepatch.client.commands.connection import add_connection, add_limit, server_options
from elivepatch.client.commands.options import add_json
from elivepatch.client.commands.report import follow_job
from elivepatch.client.host import machine as machines
from elivepatch.client.push.kernel_files import KernelFiles, PushOptions, find_kernel_files
from elivepatch.client.push.push import Sent, push_kernel
from elivepatch.client.server.connection import connect
from elivepatch.client.server.timeout import time_limit
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "kernel", help="give the server the running kernel: push", description=__doc__, allow_abbrev=False
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    push = actions.add_parser(
        "push",
        help="send what the build of the running kernel left",
        description="Send the files that the build of the running kernel left, and its source, to the server, which "
        "makes the base of the kernel from them without a build. Only what the server lacks is sent.",
        allow_abbrev=False,
    )
    push.add_argument(
        "--build", metavar="DIR", type=Path, help="the tree it was built in (default: /lib/modules/RELEASE/build)"
    )
    push.add_argument("--vmlinux", metavar="FILE", type=Path, help="its vmlinux, not stripped")
    push.add_argument(
        "--source", metavar="DIR", type=Path, help="its source (default: /lib/modules/RELEASE/source, or the tree)"
    )
    push.add_argument("--no-source", action="store_true", help="send no source: the server's operator has declared one")
    push.add_argument(
        "--base-patch", metavar="FILE", type=Path, action="append", default=[],
        help="with --no-source: a patch that is in the kernel but not in the declared source; once for each, in order",
    )  # fmt: skip
    push.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    add_json(push)
    add_limit(push)
    add_connection(push)
    push.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Find the files, send what the server lacks, and wait for the base."""
    host = machines.this_machine().host
    options = PushOptions(
        build=arguments.build,
        vmlinux=arguments.vmlinux,
        source=arguments.source,
        without_source=arguments.no_source,
        base_patches=tuple(arguments.base_patch),
    )
    files = find_kernel_files(host, options)
    if arguments.dry_run:
        output.document(_document(files, None, Sent(), known=False, dry_run=True))
        rows = [(name, str(path)) for name, path in sorted(files.named.items())]
        if files.record is not None:
            rows.append(("record", "made of the build directory, in place of debug information"))
        rows += [("modules", f"{len(files.modules)} files"), ("source", str(files.source or "none is sent"))]
        output.table(("FILE", "FROM"), rows)
        return ExitStatus.OK
    server = server_options(arguments)
    with connect(server) as api, time_limit(api.limit_s) as waiting:
        job, sent = push_kernel(host, files, api, output.progress)
        if job is None:
            output.document(_document(files, None, sent, known=True))
            output.line(f"The server can build for {files.release} already.")
            return ExitStatus.OK
        waiting.job = job
        report = follow_job(api, job, server, output)
    output.document(_document(files, job, sent, known=report.problem is None))
    if report.problem is not None:
        output.problem(report.problem)
    else:
        output.line(f"The server can build for {files.release} now; {sent.sent_bytes >> 20} MiB were sent.")
    return report.exit_status


def _document(files: KernelFiles, job: str | None, sent: Sent, *, known: bool, dry_run: bool = False) -> dict[str, Any]:
    return {
        "release": files.release,
        "files": {name: str(path) for name, path in sorted(files.named.items())},
        "modules": len(files.modules),
        "source": str(files.source) if files.source is not None else None,
        "dry_run": dry_run,
        "job": job,
        "known": known,
        "pieces": sent.pieces,
        "sent": sent.sent,
        "sent_bytes": sent.sent_bytes,
    }
