# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies of requests for kernels, validated, and of answers about kernels."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.series import PATCHES_LIMIT
from elivepatch.service.http.wire import BasePatchBody, KernelAnswer, Sent

PIECES_LIMIT = 3000
"""Pieces of one archive; the client's have one to eight megabytes before they are compressed."""

_TEXT = 300
_Piece = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class KernelBody(Sent):
    """A kernel whose base the server is to make; an empty text is a fact that is not known."""

    release: str = Field(max_length=100, examples=["6.1.0-50-cloud-amd64"], description="What `uname -r` prints.")
    build_id: str = Field(default="", pattern="^([0-9a-f]{16,128})?$", description="The GNU build-id of the kernel.")
    arch: str = Field(default="", max_length=40)
    compiler: str = Field(default="", max_length=_TEXT)
    config: str = Field(default="", description="The .config as a zlib stream (RFC 1950) in base64 (RFC 4648 §4).")
    distribution: str = Field(default="", max_length=_TEXT, examples=["debian 13"])
    package: str = Field(default="", max_length=_TEXT, examples=["6.12.118-1"])
    base_patches: Annotated[list[BasePatchBody], Field(max_length=PATCHES_LIMIT)] = Field(default_factory=list)
    files: Annotated[list[_Piece], Field(max_length=PIECES_LIMIT)] = Field(
        default_factory=list,
        description="Uploaded pieces of the archive of what the kernel's build left (docs/kernels.md).",
    )
    source: Annotated[list[_Piece], Field(max_length=PIECES_LIMIT)] = Field(
        default_factory=list, description="Uploaded pieces of the archive of its source."
    )

    def asked(self) -> KernelRequest:
        """Return the request; raises UsageError if the release or the configuration is malformed."""
        return KernelRequest.from_json(self.model_dump(mode="json"))


class KernelsAnswer(BaseModel):
    """The kernels that the server can build for."""

    kernels: list[KernelAnswer]


class KernelRequestAnswer(BaseModel):
    """The kernel if the server can build for it already, else the job that makes its base."""

    kernel: KernelAnswer | None
    job: str | None
