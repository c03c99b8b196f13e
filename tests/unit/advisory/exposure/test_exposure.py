# SPDX-License-Identifier: GPL-2.0-or-later
"""From the version to what is open: each stage takes away only what it knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_backend import SOURCES

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty, Closing, Exposure, ExposureSubject, expose
from elivepatch.advisory.exposure.priority import Ranking
from elivepatch.advisory.exposure.summary import exposure_dict, funnel
from elivepatch.advisory.exposure.verdicts import FixVerdict
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.record import Record, at_least
from elivepatch.model.codes import problem
from elivepatch.model.kernel import Digest

NAME = "CVE-2030-20001"
NO_RANKING = Ranking(exploited={}, probability={})
PATCH = Digest("1" * 64)


def record(*files: str, fixed: str = "6.1.180", name: str = NAME) -> Record:
    read = parse_dyad(f"5.4:{'a' * 40}:{fixed}:{'b' * 40}\n")
    assert not isinstance(read, str)
    return Record(id=name, title="lamp: measure the oil", files=files, introductions=read)


def subject(**changes: Any) -> ExposureSubject:
    return replace(ExposureSubject(version=SOURCES.vanilla, sources=SOURCES), **changes)


def verdict(code: str, *, builder: Digest = SOURCES.builder) -> FixVerdict:
    return FixVerdict(patches=(PATCH,), builder=builder, asked=True, problem=problem(code, "Lamp."))


def one(given: Record, on: ExposureSubject) -> Exposure:
    (exposed,) = expose([given], on)
    return exposed


@pytest.mark.parametrize(
    ("files", "built"),
    [
        (("fs/proc/meminfo.c",), "yes"),
        (("drivers/lamp/wick.c",), "no"),
        (("drivers/lamp/wick.c", "net/8021q/vlan.c"), "yes"),
        (("drivers/lamp/wick.c", "include/linux/lamp.h"), "unknown"),
        (("drivers/lamp/elsewhere.c",), "unknown"),
        (("arch/x86/boot/main.c",), "unknown"),
        (("arch/arm64/kernel/entry.S",), "no"),
        (("arch/arm64/include/asm/lamp.h",), "no"),
        (("tools/lamp/lamp.c", "Documentation/lamp.rst"), "no"),
        (("drivers/lamp/Kconfig", "drivers/lamp/Makefile"), "no"),
        ((), "unknown"),
    ],
)
def test_a_file_is_built_or_not_built_or_it_is_not_known(files: tuple[str, ...], built: str) -> None:
    exposed = one(record(*files), subject())
    assert exposed.built.certainty == built
    assert exposed.built.reason
    assert exposed.open == (built != "no")


def test_without_a_list_of_sources_nothing_is_taken_away() -> None:
    exposed = one(record("drivers/lamp/wick.c"), ExposureSubject(version=SOURCES.vanilla))
    assert exposed.built.certainty is Certainty.UNKNOWN
    assert exposed.open


def test_code_in_the_kernel_itself_is_loaded_and_a_modules_where_that_is() -> None:
    vlan = record("net/8021q/vlan.c")
    assert one(record("fs/proc/meminfo.c"), subject(modules=())).loaded.certainty == "yes"
    assert one(vlan, subject(modules={"8021q"})).loaded.certainty == "yes"
    assert one(vlan, subject(modules={"ext4"})).loaded.certainty == "no"
    assert one(vlan, subject()).loaded.certainty == "unknown"
    assert one(record("drivers/lamp/wick.c"), subject(modules=())).loaded.certainty == "no"
    assert one(record("include/linux/lamp.h"), subject(modules=())).loaded.certainty == "unknown"


def test_a_module_that_is_not_loaded_is_open_all_the_same() -> None:
    assert one(record("net/8021q/vlan.c"), subject(modules=())).open


def test_what_a_livepatch_closes_is_not_open() -> None:
    closing = Closing(livepatch="elp_1", functions=("vmlinux:meminfo_proc_show",))
    exposed = one(record("fs/proc/meminfo.c"), subject(closings={NAME: closing}))
    assert exposed.concerned
    assert not exposed.open
    assert closing.reason == "elp_1: vmlinux:meminfo_proc_show"


def test_what_the_version_is_not_affected_by_is_never_open() -> None:
    exposed = one(record("fs/proc/meminfo.c", fixed="6.1.100"), subject())
    assert (exposed.assessment.state, exposed.open) == (State.FIXED, False)


def test_the_source_itself_decides_where_the_server_tried_the_fix() -> None:
    given = record("fs/proc/meminfo.c")
    exposed = one(given, subject(verdicts={NAME: verdict("already-applied")}))
    assert exposed.assessment.state is State.FIXED
    assert "source contains the fix" in exposed.assessment.evidence[0].reason
    exposed = one(given, subject(verdicts={NAME: verdict("no-change")}))
    assert exposed.built.certainty is Certainty.NO
    assert one(given, subject(verdicts={NAME: verdict("data-layout")})).open


def test_a_verdict_of_another_builder_counts_for_nothing() -> None:
    old = verdict("already-applied", builder=Digest("0" * 64))
    exposed = one(record("fs/proc/meminfo.c"), subject(verdicts={NAME: old}))
    assert exposed.open
    assert exposed.verdict is None


def test_the_funnel_adds_up_at_every_stage() -> None:
    names = [f"CVE-2030-2000{number}" for number in range(6)]
    files = ["fs/proc/meminfo.c", "net/8021q/vlan.c", "drivers/lamp/wick.c", "include/linux/lamp.h", "fs/x.c", "fs/y.c"]
    records = [record(file, name=name) for file, name in zip(files, names, strict=True)]
    records[5] = replace(records[5], defect="No range can be read.")
    on = subject(
        modules=(),
        closings={names[0]: Closing(livepatch="elp_1", functions=())},
        verdicts={
            names[0]: FixVerdict(patches=(PATCH,), builder=SOURCES.builder, asked=True, functions=("vmlinux:f",)),
            names[1]: verdict("data-layout"),
        },
    )
    assert funnel(expose(records, on), on) == {
        "affected": 5,
        "unknown": 1,
        "built": {"yes": 2, "no": 1, "unknown": 3},
        "loaded": {"yes": 1, "no": 1, "unknown": 3},
        "closed": 1,
        "open": 4,
        "fixes": {
            "untried": 3,
            "convertible": 1,
            "needs-reboot": 1,
            "fix-incomplete": 0,
            "nothing-to-do": 0,
            "covered": 0,
        },
    }


def test_unknown_stages_are_left_out_of_the_document() -> None:
    given = record("fs/proc/meminfo.c")
    bare = ExposureSubject(version=SOURCES.vanilla)
    assert not {"built", "loaded", "closed", "open", "fix"} & set(exposure_dict(one(given, bare), bare, NO_RANKING))
    on = subject(modules=(), closings={}, verdicts={NAME: verdict("data-layout")})
    told = exposure_dict(one(given, on), on, NO_RANKING)
    assert told["built"] == {"certainty": "yes", "reason": "built into vmlinux", "parents": ["vmlinux"]}
    assert told["closed"] is None
    assert told["open"] is True
    assert (told["fix"]["outcome"], told["fix"]["code"]) == ("needs-reboot", "data-layout")


def test_a_record_without_a_score_is_never_severe_enough() -> None:
    assert at_least("critical", "high")
    assert at_least("high", "high")
    assert not at_least("medium", "high")
    assert not at_least("unrated", "none")
