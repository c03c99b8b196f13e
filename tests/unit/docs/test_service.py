# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages about the API, settings and exit statuses are complete."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from assembled import assembled

from elivepatch.model.errors import ExitStatus
from elivepatch.service.access.accounts import RIGHTS, Right, Role
from elivepatch.service.http.problems import CODE_OF_STATUS, STATUS_OF_CODE
from elivepatch.settings import RANGES, ClientSettings, ServerSettings

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("settings", [ServerSettings, ClientSettings])
def test_every_setting_is_described(settings: type[ServerSettings | ClientSettings]) -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for field in fields(settings):
        assert f"| `{field.name}` |" in page
        assert f"`ELIVEPATCH_{field.name.upper()}`" in page
        if field.name != "jobs" and field.default != "":
            assert f"`{field.default}`" in page
        if field.name in RANGES:
            low, high = RANGES[field.name]
            assert re.search(rf"^\| `{field.name}` \|.*\| {low} to {high} \|", page, re.MULTILINE), field.name


def test_every_exit_status_is_described() -> None:
    page = (DOCS / "exit-status.md").read_text(encoding="utf-8")
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == [*ExitStatus, 130]


def test_every_route_is_described(tmp_path: Path) -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    described = {f"{method} {path}" for method, path in re.findall(r"^\| `(\w+) ([^`?]+)", page, re.MULTILINE)}
    with assembled(tmp_path) as server:
        paths = server.http.get("/v1/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert described == routes | {"GET /v1/openapi.json"}


def test_every_code_of_the_api_is_described_with_its_status() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for code, status in [*STATUS_OF_CODE.items(), *((code, status) for status, code in CODE_OF_STATUS.items())]:
        assert re.search(rf"^\| {int(status)} \|.*`{code}`", page, re.MULTILINE), code


def test_every_role_and_right_is_described() -> None:
    page = (DOCS / "accounts.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    assert rows[0][1:] == [role.value for role in Role]
    described = {row[0].partition(":")[0].replace(" ", "_").upper(): row[1:] for row in rows[2:]}
    assert described == {right.name: ["yes" if right in RIGHTS[role] else "" for role in Role] for right in Right}
