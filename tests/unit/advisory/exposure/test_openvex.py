# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenVEX documents hold what the specification and its JSON schema demand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fake_backend import SOURCES

from elivepatch.advisory.exposure.exposure import Closing, ExposureSubject, expose
from elivepatch.advisory.exposure.openvex import openvex
from elivepatch.advisory.exposure.verdicts import FixVerdict
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.record import Record
from elivepatch.model.codes import problem
from elivepatch.model.kernel import Digest

AT = datetime(2030, 5, 2, 12, 0, tzinfo=UTC)
PATCH = Digest("1" * 64)


def record(number: int, file: str, fixed: str = "6.1.180", introduced: str = "5.4") -> Record:
    read = parse_dyad(f"{introduced}:{'a' * 40}:{fixed}:{'b' * 40}\n")
    assert not isinstance(read, str)
    return Record(id=f"CVE-2030-2000{number}", title="lamp: measure the oil", files=(file,), introductions=read)


RECORDS = [
    record(1, "fs/proc/meminfo.c"),
    record(2, "fs/proc/meminfo.c", fixed="6.1.100"),
    record(3, "fs/proc/meminfo.c", introduced="6.5", fixed="6.6"),
    record(4, "drivers/lamp/wick.c"),
    record(5, "fs/proc/meminfo.c"),
    replace(record(6, "fs/proc/meminfo.c"), defect="No range can be read."),
    record(7, "fs/proc/meminfo.c"),
    record(8, "fs/proc/meminfo.c"),
]
SUBJECT = ExposureSubject(
    version=SOURCES.vanilla,
    sources=SOURCES,
    modules=(),
    closings={"CVE-2030-20005": Closing(livepatch="elp_1", functions=("vmlinux:f",))},
    verdicts={
        "CVE-2030-20007": FixVerdict(
            patches=(PATCH,), builder=SOURCES.builder, asked=True, problem=problem("data-layout", "A struct grows.")
        ),
        "CVE-2030-20008": FixVerdict(patches=(PATCH,), builder=SOURCES.builder, asked=True),
    },
)


def document(on: ExposureSubject = SUBJECT) -> dict[str, Any]:
    return openvex(expose(RECORDS, on), on, author="us", tool="elivepatch 1", at=AT)


def statement(number: int) -> dict[str, Any]:
    found: dict[str, Any] = document()["statements"][number - 1]
    assert found["vulnerability"] == {"name": f"CVE-2030-2000{number}"}
    return found


def test_the_document_has_every_required_field_and_no_unknown_one() -> None:
    made = document()
    assert set(made) == {"@context", "@id", "author", "timestamp", "version", "tooling", "statements"}
    assert made["@context"] == "https://openvex.dev/ns/v0.2.0"
    assert made["@id"].startswith("urn:elivepatch:vex:")
    assert made["timestamp"] == "2030-05-02T12:00:00+00:00"
    assert made["version"] == 1
    allowed = {"vulnerability", "products", "status", "status_notes", "justification", "action_statement"}
    for one in made["statements"]:
        assert set(one) <= allowed
        assert ("justification" in one) == (one["status"] == "not_affected")
        assert ("action_statement" in one) == (one["status"] == "affected")
        assert one["products"] == [{"@id": SOURCES.purl}]


def test_the_same_statements_have_the_same_id_and_others_have_another() -> None:
    assert document()["@id"] == document()["@id"]
    assert document()["@id"] != document(replace(SUBJECT, closings={}))["@id"]


def test_each_situation_has_its_status() -> None:
    assert [statement(number)["status"] for number in range(1, 9)] == [
        "affected",
        "fixed",
        "not_affected",
        "not_affected",
        "not_affected",
        "under_investigation",
        "affected",
        "affected",
    ]
    assert statement(3)["justification"] == "vulnerable_code_not_present"
    assert statement(4)["justification"] == "vulnerable_code_not_present"
    assert statement(5)["justification"] == "inline_mitigations_already_exist"
    assert "elp_1: vmlinux:f" in statement(5)["status_notes"]


def test_an_affected_kernel_gets_an_action() -> None:
    assert "6.1.180" in statement(1)["action_statement"]
    assert "cannot be a livepatch" in statement(7)["action_statement"]
    assert "without a reboot" in statement(8)["action_statement"]


def test_a_vanilla_kernel_is_a_generic_package() -> None:
    made = document(ExposureSubject(version=SOURCES.vanilla))
    assert made["statements"][0]["products"] == [{"@id": "pkg:generic/linux@6.1.176"}]
