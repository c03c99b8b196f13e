# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server kernel add`: the files of a build are named one by one, or all by its directory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from elivepatch.build.base.custom import CustomKernel
from elivepatch.build.kept.files import KeptBuild
from elivepatch.model.errors import UsageError
from elivepatch.service import cli
from elivepatch.service.commands import kernel as command

ADD = ("kernel", "add", "6.12.40-ours", "--source", "/src/linux")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[CustomKernel]:
    """The kernels that the command asked for; none of them is made."""
    seen: list[CustomKernel] = []

    def add(kernel: CustomKernel) -> None:
        seen.append(kernel)
        code = "unproved"
        raise UsageError(code, "It is not made.", advice="It is a test.")

    backend = SimpleNamespace(custom_maker=lambda _progress: SimpleNamespace(add=add))
    monkeypatch.setattr(command, "_backend", lambda _arguments: backend)
    return seen


def kept_of(added: list[CustomKernel], *options: str) -> tuple[CustomKernel, KeptBuild]:
    assert cli.main([*ADD, *options]) != 0
    (kernel,) = added
    assert kernel.kept is not None
    return kernel, kernel.kept


def test_the_directory_of_a_build_stands_for_all_that_the_build_left_there(added: list[CustomKernel]) -> None:
    kernel, kept = kept_of(added, "--build", "/build", "--modules", "/lib/modules/6.12.40-ours")
    assert kernel.config == Path("/build/.config")
    assert kept == KeptBuild(
        vmlinux=Path("/build/vmlinux"),
        vmlinuz=Path("/build/arch/x86/boot/bzImage"),
        symvers=Path("/build/Module.symvers"),
        modules=Path("/lib/modules/6.12.40-ours"),
        build=Path("/build"),
    )


def test_a_file_that_is_named_is_taken_in_place_of_the_one_in_the_directory(added: list[CustomKernel]) -> None:
    kernel, kept = kept_of(added, "--build", "/build", "--vmlinuz", "/boot/vmlinuz", "--kernel-config", "/boot/config")
    assert (kernel.config, kept.vmlinuz) == (Path("/boot/config"), Path("/boot/vmlinuz"))
    assert kept.vmlinux == Path("/build/vmlinux")


@pytest.mark.parametrize("lacking", ["vmlinux", "vmlinuz", "symvers"])
def test_without_a_directory_each_file_must_be_named(
    added: list[CustomKernel], capsys: pytest.CaptureFixture[str], lacking: str
) -> None:
    options = [f"--{name}=/kept/{name}" for name in ("vmlinux", "vmlinuz", "symvers") if name != lacking]
    assert cli.main([*ADD, "--kernel-config", "/kept/config", *options]) == 2
    assert "kept-incomplete" in capsys.readouterr().err
    assert added == []


def test_a_directory_without_a_source_is_refused(added: list[CustomKernel], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernel", "add", "6.12.40-ours", "--build", "/build"]) == 2
    assert "source-missing" in capsys.readouterr().err
    assert added == []
