# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the commands that talk to a server, and the values made of them. This module registers no command."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from elivepatch.client.commands.options import seconds_of, warn_of_force
from elivepatch.client.host import machine as machines
from elivepatch.client.options import SETTINGS_FILE, BasePatchOptions, ChangeOptions, ServerOptions
from elivepatch.client.server.connection import settings_of
from elivepatch.model.errors import UsageError
from elivepatch.output import Output


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that talks to a server."""
    parser.add_argument("-u", "--url", metavar="URL", help="the server (default: http://127.0.0.1:8440)")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="a file with the token for the server")


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add the option of every command that waits for a job at a server."""
    parser.add_argument(
        "--limit",
        metavar="SECONDS",
        type=seconds_of("limit_s"),
        help="wait this long for the server in all (default: 3600)",
    )


def server_options(arguments: argparse.Namespace) -> ServerOptions:
    """Return the values of `add_connection` and, if the command has it, of `add_limit`."""
    return ServerOptions(url=arguments.url, token_file=arguments.token_file, limit_s=getattr(arguments, "limit", None))


def connection_words(options: ServerOptions) -> list[str]:
    """Return the words of `add_connection` that give these options again, for a command line that people copy."""
    words = ["--url", options.url] if options.url else []
    return [*words, "--token-file", str(options.token_file)] if options.token_file else words


def add_base_patches(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that asks for a build."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--base-patch",
        metavar="FILE",
        action="append",
        default=[],
        type=Path,
        dest="base_patches",
        help="a patch that the running kernel was built with, for the server to compare with its base (may be given "
        "more than once; default: the user patches of a Gentoo kernel)",
    )
    which.add_argument(
        "--no-base-patches",
        action="store_true",
        help="the kernel was built without the user patches that the package manager keeps here",
    )


def add_trial(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that asks for a build and a trial."""
    parser.add_argument(
        "--expect",
        metavar="'COMMAND =~ REGEX'|FILE",
        action="append",
        default=[],
        help="output that a command must have in the server's trial while the livepatch is enabled, and only then; or "
        "a predicate: a program, NAME.c or NAME.sh, that ends with 1 if the hole is open and with 0 if it is closed",
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="also try the patches on the server's debugging kernel of the same source, with KASAN and lockdep",
    )
    parser.add_argument(
        "--no-trial", action="store_true", help="do not have the server boot the kernel to try the livepatch"
    )


def check_trial_options(arguments: argparse.Namespace) -> None:
    """Raise UsageError if the options of `add_trial` contradict each other."""
    for given, option, what in (
        (arguments.expect, "--expect", "is checked in the trial"),
        (arguments.thorough, "--thorough", "adds to the trial"),
    ):
        if given and arguments.no_trial:
            raise UsageError(
                "usage",
                f"{option} {what}, and --no-trial leaves the trial out.",
                advice=f"Leave out --no-trial or {option}.",
            )


def base_patch_options(arguments: argparse.Namespace) -> BasePatchOptions:
    """Return the values of `add_base_patches`."""
    return BasePatchOptions(files=tuple(arguments.base_patches), none=arguments.no_base_patches)


def server_change_options(arguments: argparse.Namespace, output: Output) -> ChangeOptions:
    """Return the options of a command that changes this host and asks a server for it; warn of --force.

    Raises UsageError if a setting is malformed or the token's file cannot be read.
    """
    warn_of_force(arguments, output)
    settings = settings_of(
        server_options(arguments),
        environ=os.environ,
        file=machines.this_machine().host.path(SETTINGS_FILE),
        deadline_s=arguments.deadline,
        lock_wait_s=arguments.wait,
        require_trial=getattr(arguments, "require_trial", None),
    )
    return ChangeOptions(settings=settings, force=arguments.force)
