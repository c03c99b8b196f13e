# SPDX-License-Identifier: GPL-2.0-or-later
"""A host says before the load if its kernel cannot load a module again under its livepatch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host_commands import enrol, run_json, save
from simulated_host import SimulatedHost, make_livepatch

OLD = "ffffffff81000000 T meminfo_proc_show\n"
NEW = f"{OLD}ffffffff81000000 T clear_relocate_add\n"
OF_MODULE = "ffffffffc0000000 t clear_relocate_add\t[other]\n"


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    return found


def finding(document: Any) -> dict[str, str]:
    (found,) = (one for one in document["findings"] if one["code"] == "module-reload")
    return dict(found)


@pytest.mark.parametrize(
    ("symbols", "level"), [(OLD, "note"), (NEW, "ok"), (OLD + OF_MODULE, "note"), (None, "ok"), ("", "ok")]
)
def test_the_kernel_itself_decides_and_not_its_version(host: SimulatedHost, symbols: str | None, level: str) -> None:
    if symbols is not None:
        host.put("proc/kallsyms", symbols)
    made = save(make_livepatch("elp_a", relocated=["8021q"]), host.root / "files")
    if symbols != "":
        told = finding(run_json(host, "load", made, "--dry-run").document)
        assert told["level"] == level
        assert "8021q" in told["message"]
    assert finding(run_json(host, "doctor").document)["level"] == level


def test_the_note_has_a_way_out(host: SimulatedHost) -> None:
    host.put("proc/kallsyms", OLD)
    told = finding(run_json(host, "doctor").document)
    assert "stays away" in told["message"]
    for words in ("elivepatch disable NAME", "modprobe MODULE", "elivepatch enable NAME", "reboot"):
        assert words in told["advice"]


def test_a_livepatch_without_relocations_for_a_module_has_no_such_limit(host: SimulatedHost) -> None:
    host.put("proc/kallsyms", OLD)
    for relocated in ([], ["vmlinux"]):
        made = save(make_livepatch("elp_a", relocated=relocated), host.root / "files")
        assert finding(run_json(host, "load", made, "--dry-run").document)["level"] == "ok"
