# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server kernel add --packages`: what the options ask the provider of packages for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elivepatch.build.providers.source import Declared
from elivepatch.model.errors import UsageError
from elivepatch.service import cli
from elivepatch.service.jobs.local_backend import LocalBackend

RELEASE = "6.12.40-ours"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """Requests to the provider; it refuses each, so that the command ends there."""
    seen: list[tuple[Any, ...]] = []

    def refuse(_self: object, *arguments: Any) -> None:
        seen.append(arguments[:3])
        raise UsageError("packages-incomplete", "They are not all there.", advice="Fetch them.")

    monkeypatch.setattr(LocalBackend, "make_from_packages", refuse)
    monkeypatch.setenv("ELIVEPATCH_CACHE_DIR", str(tmp_path))
    return seen


def add(*words: str) -> int:
    return cli.main(["kernel", "add", RELEASE, "--packages", "/var/lib/kernels", *words])


def test_the_directory_and_the_release_are_enough(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert add() == 2
    ((kernel, directory, declared),) = asked
    assert (kernel.release, kernel.build_id, directory, declared) == (RELEASE, "", Path("/var/lib/kernels"), ())
    assert "[packages-incomplete]" in capsys.readouterr().err


def test_a_source_with_its_patches_and_a_build_id_may_be_given(asked: list[tuple[Any, ...]]) -> None:
    add("--source", "/srv/linux#v6.12.40", "--base-patch", "/a.patch", "--build-id", "ab" * 20)
    ((kernel, _, declared),) = asked
    assert kernel.build_id == "ab" * 20
    assert declared == (Declared(releases=RELEASE, source="/srv/linux#v6.12.40", base_patches=(Path("/a.patch"),)),)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--vmlinux", "/boot/vmlinux"], "packages-alone"),
        (["--kernel-config", "/boot/config"], "packages-alone"),
        (["--accept-unproved"], "packages-alone"),
        (["--base-patch", "/a.patch"], "packages-alone"),
        (["--build-id", "no"], "build-id-malformed"),
    ],
)
def test_options_that_the_packages_make_needless_are_refused(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    assert add(*words) == 2
    assert asked == []
    assert f"[{code}]" in capsys.readouterr().err
