# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command of the client that has --json has a published schema, and what it prints follows it.

`run_json` holds every document of every other test to its schema as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from assembled import Assembled, assembled
from cve_list import CveList
from cve_server import CveServer
from every_command import RUNS, Kit, run_connected
from fake_backend import KERNEL
from host_commands import enrol
from schema_check import SCHEMAS, faults, published
from simulated_host import SimulatedHost

from elivepatch.client import commands
from elivepatch.client.server.api import ServerClient
from elivepatch.commandline import build_parser
from elivepatch.settings import ClientSettings

INDEX: dict[str, str] = published("index.json")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    with assembled(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(autouse=True)
def connected(server: Assembled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have these commands talk to the server, in a directory of its own."""
    token = server.http.headers["Authorization"].removeprefix("Bearer ")
    monkeypatch.chdir(tmp_path)
    for command in ("build", "cancel", "check", "kernel", "kernels", "reprove"):
        monkeypatch.setattr(
            f"elivepatch.client.commands.jobs.{command}.connect",
            lambda _: ServerClient(ClientSettings(token=token), transport=server.http._transport),
        )


@pytest.fixture
def kit(tmp_path: Path, server: Assembled, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    monkeypatch.setattr("elivepatch.client.server.follow.PATIENCE_S", 0.3)
    host, cves = SimulatedHost(tmp_path / "host"), CveList(tmp_path / "list")
    with CveServer().running() as found:
        host.put("etc/elivepatch/client.toml", f'url = "{found.url}"\ntimeout_s = 2\n')
        host.put("etc/elivepatch/policy.toml", cves.policy.read_text())
        enrol(host, found.url)
        yield Kit(tmp_path, host, server, found, cves)


def with_json(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield every command of a command line that has --json, at any depth, without the program's name."""
    if any("--json" in action.option_strings for action in parser._actions):
        yield parser.prog.partition(" ")[2]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from with_json(one)


COMMANDS = sorted(with_json(build_parser("elivepatch", "", commands)))


def test_every_command_with_json_has_a_schema_and_every_schema_a_command() -> None:
    assert sorted(INDEX) == COMMANDS
    files = {Path(one.name).name for one in SCHEMAS.iterdir()}
    assert files == {*INDEX.values(), "problem.json", "index.json"}


def test_every_schema_says_which_one_it_is() -> None:
    for command, file in INDEX.items():
        schema = published(file)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        title = schema["title"].removeprefix("elivepatch --json: ")
        assert command in title, file


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_prints_follows_its_schema(kit: Kit, command: str) -> None:
    RUNS[command](kit)


def test_what_closing_tells_of_applying_is_what_apply_tells() -> None:
    applied = published("cve-close.json")["properties"]["applied"]["anyOf"][0]
    assert applied == {key: value for key, value in published("apply.json").items() if key not in {"$schema", "title"}}


def test_what_no_schema_knows_is_a_fault() -> None:
    assert faults({"id": "a", "done": True, "more": 1}, published("cancel.json")) == ["$: more is not known"]
    assert faults({"id": "a"}, published("cancel.json")) == ["$: done is missing"]
    assert faults([{"removed": 1}], published("overlay-remove.json"))


def test_a_base_that_was_made_with_other_patches_ends_a_command_as_the_hosts_matter() -> None:
    Path("fix.patch").write_text("sleep 0")
    Path("base.patch").write_text("another")
    for command in ("check", "build"):
        options = ["--kernel", KERNEL.release, "--base-patch", "base.patch"]
        status, document = run_connected(command, "fix.patch", *options)
        assert (status, document["problem"]["code"]) == (6, "base-patches")
        assert "it lacks base.patch" in document["problem"]["message"]
