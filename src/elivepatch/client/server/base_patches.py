# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches in the running kernel's source: those that the user names, else those that Portage put there.

The server gets their names and digests, not their texts: it compares them with the patches of its base.
"""

from __future__ import annotations

import os

from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import gentoo_patches, read_release
from elivepatch.client.options import BasePatchOptions
from elivepatch.client.server.patch_files import read_series
from elivepatch.model.errors import HostError
from elivepatch.model.kernel import Release
from elivepatch.model.series import BasePatch, SourcePatch


def base_patches_of(options: BasePatchOptions, release: Release) -> tuple[BasePatch, ...]:
    """Return the patches that the kernel `release` was built with, as far as they are known here.

    Raises UsageError or HostError if one cannot be read.
    """
    if options.none:
        return ()
    patches = read_series(options.files).patches if options.files else _found(release)
    return tuple(BasePatch(patch.name, patch.digest) for patch in patches)


def _found(release: Release) -> tuple[SourcePatch, ...]:
    """Return Portage's user patches; none if `release` is not this machine's."""
    host = machines.this_machine().host
    try:
        running = read_release(host)
    except HostError:
        return ()
    return gentoo_patches(host, release, os.environ.get("PORTAGE_CONFIGROOT", "")) if running == release else ()
