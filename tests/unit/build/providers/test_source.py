# SPDX-License-Identifier: GPL-2.0-or-later
"""Declared sources: which kernels are built from them, and which are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from bare_base import bare_base

from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.store import Base
from elivepatch.build.providers.provision import NotProvided
from elivepatch.build.providers.source import Declared, SourceProvider, read_declared
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import BuildId, Release
from elivepatch.model.kernel_request import KernelRequest

GENTOO = Declared(releases="6.12.*-gentoo*", source="/srv/linux#v{version}", accept_unproved=True)
ASKED = KernelRequest(release=Release("6.12.40-gentoo-r1"), build_id=BuildId("ab" * 20), config=b"CONFIG_X86_64=y\n")


class Maker:
    """A maker that notes what it is asked for."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.asked: list[tuple[CustomKernel, bytes]] = []

    def add(self, kernel: CustomKernel) -> Base:
        self.asked.append((kernel, kernel.config.read_bytes()))
        return self.base


def provided(
    tmp_path: Path, asked: KernelRequest, *declared: Declared
) -> tuple[Base | NotProvided, list[tuple[CustomKernel, bytes]]]:
    maker = Maker(bare_base(tmp_path))
    provider = SourceProvider(cast("CustomMaker", maker), declared, tmp_path)
    return provider.provide(asked), maker.asked


def test_a_kernel_is_built_from_the_first_source_that_fits_with_the_hosts_configuration(tmp_path: Path) -> None:
    made, asked = provided(tmp_path, ASKED, replace(GENTOO, releases="6.1.*"), GENTOO)
    assert isinstance(made, Base)
    ((kernel, config),) = asked
    assert (kernel.release, kernel.source, config) == ("6.12.40-gentoo-r1", "/srv/linux#v6.12.40", b"CONFIG_X86_64=y\n")
    assert (kernel.build_id, kernel.accept_unproved) == ("ab" * 20, True)


@pytest.mark.parametrize(
    ("asked", "declared", "why"),
    [
        (ASKED, replace(GENTOO, releases="6.1.*"), "No source is declared"),
        (replace(ASKED, config=b""), GENTOO, "no configuration"),
        (ASKED, replace(GENTOO, accept_unproved=False), "another build-id"),
    ],
)
def test_nothing_is_built_without_source_configuration_or_consent(
    tmp_path: Path, asked: KernelRequest, declared: Declared, why: str
) -> None:
    answer, built = provided(tmp_path, asked, declared)
    assert isinstance(answer, NotProvided)
    assert why in answer.why
    assert built == []


def test_a_file_of_sources_is_read(tmp_path: Path) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(
        '[[source]]\nreleases = "6.12.*"\nsource = "/srv/linux#v{series}"\nbase_patches = ["/etc/a.patch"]\n'
    )
    (declared,) = read_declared(file)
    assert declared.source_of("6.12.40-ours") == "/srv/linux#v6.12"
    assert declared.base_patches == (Path("/etc/a.patch"),)


@pytest.mark.parametrize(
    "text",
    ["[[source]]\nreleases = 5\nsource = 'x'\n", "[[source]]\nreleases = '6.*'\n", "source = 5\n", "[[source]\n",
     "[[source]]\nreleases = '6.*'\nsource = 'x'\nbranch = 'y'\n"],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match="does not declare sources"):
        read_declared(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_declared(tmp_path / "none.toml")
