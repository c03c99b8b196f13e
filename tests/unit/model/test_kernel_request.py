# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests for kernels as JSON."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import BuildId, Digest, Release
from elivepatch.model.kernel_request import CONFIG_LIMIT_BYTES, KernelRequest
from elivepatch.model.series import BasePatch


@given(st.binary(max_size=2000), st.text(max_size=50), st.text(max_size=50))
def test_a_request_is_read_as_it_was_written(config: bytes, compiler: str, package: str) -> None:
    asked = KernelRequest(
        release=Release("6.12.40-ours"), build_id=BuildId("ab" * 20), arch="x86_64", compiler=compiler, config=config,
        distribution="gentoo", package=package, base_patches=(BasePatch("our.patch", Digest("cd" * 32)),),
    )  # fmt: skip
    assert KernelRequest.from_json(asked.to_json()) == asked


@pytest.mark.parametrize("text", ["no base64!", base64.b64encode(b"no stream").decode(), "é"])
def test_a_configuration_that_is_no_compressed_text_is_refused(text: str) -> None:
    document = KernelRequest(release=Release("6.12.40-ours")).to_json() | {"config": text}
    with pytest.raises(UsageError) as caught:
        KernelRequest.from_json(document)
    assert caught.value.problem.code == "kernel-config"


def test_a_configuration_that_expands_to_gigabytes_is_refused_after_four_megabytes() -> None:
    bomb = base64.b64encode(zlib.compress(b"\0" * (CONFIG_LIMIT_BYTES + 1), 9)).decode()
    assert len(bomb) < 10_000
    with pytest.raises(UsageError, match="larger than 4 MiB"):
        KernelRequest.from_json(KernelRequest(release=Release("6.12.40-ours")).to_json() | {"config": bomb})
