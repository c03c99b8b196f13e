# SPDX-License-Identifier: GPL-2.0-or-later
"""What build, check, kernels and cancel print with --json follows its published schema, as a real server answers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from assembled import Assembled, assembled
from fake_workshop import KERNEL
from schema_check import faults

from elivepatch.client import cli
from elivepatch.client.api import Api
from elivepatch.output import Output
from elivepatch.settings import ClientSettings

SCHEMAS = files("elivepatch.client") / "schemas"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    with assembled(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(autouse=True)
def connected(server: Assembled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have every command talk to the server, in a directory of its own."""
    token = server.http.headers["Authorization"].removeprefix("Bearer ")
    monkeypatch.chdir(tmp_path)
    for command in ("build", "cancel", "check", "kernels"):
        monkeypatch.setattr(
            f"elivepatch.client.commands.{command}.connect",
            lambda _: Api(ClientSettings(token=token), transport=server.http._transport),
        )


def run(*argv: str, schema: str = "") -> tuple[int, Any]:
    out = io.StringIO()  # the server logs to standard output
    with mock.patch("elivepatch.commandline.Output", return_value=Output(out=out)):
        status = cli.main([*argv, "--json"])
    document = json.loads(out.getvalue())
    assert faults(document, json.loads((SCHEMAS / f"{schema or argv[0]}.json").read_text())) == []
    return status, document


@pytest.mark.parametrize(("patch", "status"), [("sleep 0", 0), ("verdict", 3), ("compile-error", 1), ("explode", 4)])
def test_however_a_job_ends_its_report_follows_the_schema(patch: str, status: int) -> None:
    Path("fix.patch").write_text(patch)
    for command in ("check", "build"):
        assert run(command, "fix.patch", "--kernel", KERNEL.release)[0] == status


def test_kernels_and_cancel_follow_their_schemas(server: Assembled) -> None:
    assert run("kernels")[1]["kernels"][0]["release"] == KERNEL.release
    assert run("cancel", server.ask("sleep 60\nlong").json()["id"])[0] == 0


@pytest.mark.parametrize("command", ["check", "build"])
def test_a_base_that_was_made_with_other_patches_ends_a_command_as_the_hosts_matter(command: str) -> None:
    Path("fix.patch").write_text("sleep 0")
    Path("base.patch").write_text("another")
    options = ["--kernel", KERNEL.release, "--base-patch", "base.patch"]
    status, document = run(command, "fix.patch", *options, schema="problem")
    assert (status, document["problem"]["code"]) == (6, "base-patches")
    assert "it lacks base.patch" in document["problem"]["message"]


def test_every_schema_is_of_a_command_or_of_a_problem() -> None:
    commands = {path.stem for path in (Path(cli.__file__).parent / "commands").glob("*.py")}
    shared = {"change", "problem"}  # enable, disable, unload and rollback; whatever fails
    assert {Path(one.name).stem for one in SCHEMAS.iterdir()} - shared <= commands
