# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch build`: have a server build a livepatch, wait for it and save the result."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from elivepatch.client.commands.connection import (
    add_base_patches,
    add_connection,
    add_limit,
    add_trial,
    base_patch_options,
    check_trial_options,
    server_options,
)
from elivepatch.client.commands.report import follow_job, show_report, submit_job
from elivepatch.client.proof.files import proof_beside
from elivepatch.client.server.api import ServerClient, parse_job
from elivepatch.client.server.base_patches import base_patches_of
from elivepatch.client.server.connection import connect
from elivepatch.client.server.errors import Refused
from elivepatch.client.server.follow import JobFollower
from elivepatch.client.server.patch_files import read_expectations, read_series, write_whole
from elivepatch.client.server.report import Report
from elivepatch.client.server.timeout import time_limit
from elivepatch.commandline import Subparsers
from elivepatch.model.build import Builder, BuildRequest
from elivepatch.model.errors import EnvironmentFault, ExitStatus, UsageError
from elivepatch.model.kernel import parse_release
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "build", help="build a livepatch from source patches", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("patches", metavar="PATCH", nargs="*", type=Path, help="source patches, in order")
    parser.add_argument("--kernel", metavar="RELEASE", help="the kernel to build for: `uname -r` on its host")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.ko",
        type=Path,
        help="file to save the module in; its proof and logs go beside it (default: ./NAME.ko)",
    )
    parser.add_argument(
        "--builder",
        choices=[builder.value for builder in Builder],
        default=Builder.OBJECTS.value,
        help="the builder: objects compiles what a series changes (default); klp (the kernel's own, from "
        "6.19 on) and reference (kpatch-build, before) compile the whole of a custom kernel, to compare with",
    )
    parser.add_argument(
        "--paranoid", action="store_true", help="have two builders make the livepatch, and accept it only if both agree"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="build although the server has an answer (needs a token of the role operator)",
    )
    parser.add_argument("--follow", metavar="ID", help="wait for a job that was requested before")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    add_trial(parser)
    add_base_patches(parser)
    add_limit(parser)
    add_connection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Request the build or follow an earlier one, wait, save and print the result."""
    request = _request(arguments)
    if arguments.output is not None and not arguments.output.parent.is_dir():
        raise UsageError(
            "output",
            f"{arguments.output.parent} is not a directory.",
            advice="Make it first, or choose another --output.",
        )
    server = server_options(arguments)
    with connect(server) as api, time_limit(api.limit_s) as waiting:
        job = (
            parse_job(arguments.follow) if request is None else submit_job(api, request, output, fresh=arguments.fresh)
        )
        waiting.job = job
        report = follow_job(api, job, server, output)
        if request is not None:
            _check_answers(report, request)
        files = _save(api, report, arguments.output, output)
    output.document(report.document | {"files": {what: str(file) for what, file in files.items()}})
    if not output.as_json:
        show_report(report, output)
        output.line(f"saved {', '.join(str(file) for file in files.values())}")
    return report.exit_status


def _request(arguments: argparse.Namespace) -> BuildRequest | None:
    """Return the request, None if an earlier job is to be followed."""
    if arguments.follow is not None:
        chosen = arguments.builder != Builder.OBJECTS.value or arguments.paranoid
        trial = arguments.expect or arguments.thorough or arguments.no_trial
        others = trial or arguments.fresh or chosen or arguments.base_patches
        if arguments.patches or arguments.kernel or others:
            raise _usage(
                "--follow takes a job as it was requested: patches, --kernel and other options cannot go with it."
            )
        return None
    if not arguments.patches or not arguments.kernel:
        raise _usage("PATCH and --kernel are needed.")
    check_trial_options(arguments)
    release = parse_release(arguments.kernel)
    return BuildRequest(
        release=release,
        series=read_series(arguments.patches),
        expectations=read_expectations(arguments.expect),
        trial=not arguments.no_trial,
        thorough=arguments.thorough,
        builder=Builder(arguments.builder),
        paranoid=arguments.paranoid,
        base_patches=base_patches_of(base_patch_options(arguments), release),
    )


def _check_answers(report: Report, request: BuildRequest) -> None:
    """Raise EnvironmentFault if a report does not belong to the request."""
    without_module = report.exit_status is ExitStatus.OK and report.module_sha256 is None
    if report.release != request.release or without_module:
        raise EnvironmentFault(
            "server-answer",
            "The server's report does not belong to this request.",
            advice="Check the version of the server, and proxies in between.",
        )


def _usage(message: str) -> UsageError:
    return UsageError("usage", message, advice="See `elivepatch build --help`.")


def _save(api: ServerClient, report: Report, module: Path | None, output: Output) -> dict[str, Path]:
    """Save the job's files, the module last, and return their paths."""
    module = module or Path(f"{report.livepatch_name or f'elivepatch-{report.id}'}.ko")
    stem = module.name.removesuffix(".ko")
    follower = JobFollower(output.progress)
    contents: dict[str, tuple[Path, bytes]] = {}
    for what in ("log", "console"):
        try:
            content = follower.retry(lambda: api.download(report.id, what))  # noqa: B023 - called at once
        except Refused as refusal:
            if refusal.problem.code != "file-unknown":
                raise
        else:
            contents[what] = (module.with_name(f"{stem}.{'log' if what == 'log' else 'console.log'}"), content)
    document = json.dumps(report.document, indent=2) + "\n"
    contents["report"] = (module.with_name(f"{stem}.report.json"), document.encode())
    if (digest := report.module_sha256) is not None:
        contents["proof"] = (proof_beside(module), follower.retry(lambda: api.proof(report.id)))
        contents["module"] = (module, follower.retry(lambda: api.download(report.id, "module", digest)))
    for file, content in contents.values():
        write_whole(file, content)
    return {what: file for what, (file, _) in contents.items()}
