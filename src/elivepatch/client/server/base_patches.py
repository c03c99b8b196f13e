# SPDX-License-Identifier: GPL-2.0-or-later
"""Which patches are in the running kernel's source: those that the user names, else those that Portage put there.

The server is told their names and digests, not their texts: it compares them with what its base was made of.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import gentoo_patches, read_release
from elivepatch.client.server.patch_files import read_series
from elivepatch.model.errors import HostError
from elivepatch.model.kernel import Release
from elivepatch.model.series import BasePatch, SourcePatch


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
        help="name none: this kernel was built without the user patches that are here",
    )


def base_patches_of(arguments: argparse.Namespace, release: Release) -> tuple[BasePatch, ...]:
    """Return the patches that the kernel `release` was built with, as far as they are known here.

    Raises UsageError or HostError where one cannot be read.
    """
    if arguments.no_base_patches:
        return ()
    patches = read_series(arguments.base_patches).patches if arguments.base_patches else _found(release)
    return tuple(BasePatch(patch.name, patch.digest) for patch in patches)


def _found(release: Release) -> tuple[SourcePatch, ...]:
    """Return Portage's user patches; none where `release` is not this machine's, whose patches are its own."""
    host = machines.this_machine().host
    try:
        running = read_release(host)
    except HostError:
        return ()
    return gentoo_patches(host, release, os.environ.get("PORTAGE_CONFIGROOT", "")) if running == release else ()
