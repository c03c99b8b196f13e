# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests for a kernel: a kernel as its host describes it, for a server that is to make its base."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import BuildId, Digest, Release, parse_release
from elivepatch.model.series import BasePatch

_UNKNOWN = BuildId("")

CONFIG_LIMIT_BYTES = 4 << 20
"""Size of a configuration; those of distributions have 300 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRequest:
    """A kernel that a server does not know. An empty text, or no bytes, stands for a fact that is not known.

    `package` is the version of the distribution's package, as /proc/version has it; `distribution` is ID and VERSION_ID
    of os-release(5). `files` and `source` are the uploaded pieces of two archives, in order: what the kernel's build
    left, and its source (docs/kernels.md).
    """

    release: Release
    build_id: BuildId = _UNKNOWN
    arch: str = ""
    compiler: str = ""
    config: bytes = b""
    distribution: str = ""
    package: str = ""
    base_patches: tuple[BasePatch, ...] = ()
    files: tuple[Digest, ...] = ()
    source: tuple[Digest, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the request as the JSON of the API (docs/kernels.md): the one spelling of it, sent and kept."""
        return {
            "release": self.release,
            "build_id": self.build_id,
            "arch": self.arch,
            "compiler": self.compiler,
            "config": base64.b64encode(zlib.compress(self.config)).decode("ascii") if self.config else "",
            "distribution": self.distribution,
            "package": self.package,
            "base_patches": [{"name": patch.name, "sha256": patch.digest} for patch in self.base_patches],
            "files": list(self.files),
            "source": list(self.source),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> KernelRequest:
        """Return the request that `to_json` wrote.

        Raises UsageError if the release or the configuration is malformed, KeyError or TypeError for another shape.
        """
        return KernelRequest(
            release=parse_release(document["release"]),
            build_id=BuildId(document["build_id"]),
            arch=document["arch"],
            compiler=document["compiler"],
            config=_config(document["config"]),
            distribution=document["distribution"],
            package=document["package"],
            base_patches=tuple(BasePatch(one["name"], Digest(one["sha256"])) for one in document["base_patches"]),
            files=tuple(Digest(one) for one in document["files"]),
            source=tuple(Digest(one) for one in document["source"]),
        )


def _config(text: str) -> bytes:
    try:
        # The limit is on what comes out: a few bytes may stand for gigabytes.
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), CONFIG_LIMIT_BYTES + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise UsageError(
            "kernel-config",
            "The configuration of the kernel is not base64 of a zlib stream.",
            advice="Send the .config compressed as RFC 1950 says, then encoded as RFC 4648 §4 says.",
        ) from error
    if len(content) > CONFIG_LIMIT_BYTES:
        raise UsageError(
            "kernel-config",
            "The configuration of the kernel is larger than 4 MiB.",
            advice="Send the .config of one kernel.",
        )
    return content
