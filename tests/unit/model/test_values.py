# SPDX-License-Identifier: GPL-2.0-or-later
"""Releases, series, expectations, requests: the values that everything else is said in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.build import Livepatch, PatchedFunction
from elivepatch.model.errors import Kind, Problem, UsageError
from elivepatch.model.kernel import BuildId, Digest, KernelIdentity, parse_release
from elivepatch.model.progress import Event
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation, NotLive, Observation, TrialReport

RELEASES = ["6.1.0-50-cloud-amd64", "6.12.107+deb13-cloud-amd64", "7.2.13-amd64", "6.18.44_local~rc1", "5.10"]


@pytest.mark.parametrize("release", RELEASES)
def test_what_uname_prints_is_a_release(release: str) -> None:
    assert parse_release(release) == release


@pytest.mark.parametrize(
    "text", ["", "debian-13", "../6.1", "6.1/../../etc", "6.1/x", "6..1", "6.1 x", "6.1\n", "6.1\0", "-6.1", "6.1;id",
             "6.1" + "x" * 100, "6.1é"],
)  # fmt: skip
def test_what_cannot_be_a_release_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_release(text)
    assert caught.value.problem.code == "kernel-release"


@given(st.text())
def test_a_release_is_always_one_name_of_a_file(text: str) -> None:
    try:
        release = parse_release(text)
    except UsageError:
        return
    assert not set(release) & set("/\0\n ")
    assert release not in {".", ".."}


def test_a_series_is_known_by_its_patches_in_their_order() -> None:
    one, two = SourcePatch("one", b"1"), SourcePatch("two", b"2")
    assert PatchSeries((one, two)).digest != PatchSeries((two, one)).digest
    assert PatchSeries((one, two)).digest != PatchSeries((one,)).digest


def test_names_of_patches_do_not_change_what_a_series_is() -> None:
    assert PatchSeries((SourcePatch("a", b"1"),)).digest == PatchSeries((SourcePatch("b", b"1"),)).digest


@given(st.binary(), st.binary())
def test_other_bytes_are_another_patch(one: bytes, other: bytes) -> None:
    assert (SourcePatch("a", one).digest == SourcePatch("a", other).digest) == (one == other)


@pytest.mark.parametrize(
    ("text", "command", "pattern", "shell"),
    [
        ("/proc/meminfo =~ VMALLOCCHUNK", "/proc/meminfo", "VMALLOCCHUNK", "cat /proc/meminfo"),
        ("uname -a=~Linux", "uname -a", "Linux", "uname -a"),
        ("echo 'a =~ b' =~ ^a", "echo 'a =~ b'", "^a", "echo 'a =~ b'"),
        ("/bin/echo hello =~ hello", "/bin/echo hello", "hello", "/bin/echo hello"),
        ("  ls /proc   =~   ^\\d+$  ", "ls /proc", "^\\d+$", "ls /proc"),
    ],
)
def test_an_expectation_is_a_command_or_a_file_and_a_pattern(text: str, command: str, pattern: str, shell: str) -> None:
    read = Expectation.parse(text)
    assert (read.command, read.pattern, read.shell) == (command, pattern, shell)


@pytest.mark.parametrize(
    "text", ["", "=~", "/proc/meminfo", "/proc/meminfo =~", "=~ x", "/proc/meminfo ~= x",
             "a\0b =~ x", "x" * 5000 + " =~ y", "x =~ " + "y" * 5000],
)  # fmt: skip
def test_a_text_that_is_no_expectation_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Expectation.parse(text)
    assert caught.value.problem.code == "expectation"
    assert len(caught.value.problem.message) < 400


@given(st.text(max_size=100))
def test_arbitrary_text_is_an_expectation_or_refused(text: str) -> None:
    try:
        read = Expectation.parse(text)
    except UsageError:
        return
    assert read.command
    assert read.pattern


def test_a_file_name_with_odd_characters_is_a_command_not_a_file() -> None:
    assert Expectation(command="/tmp/a b", pattern="x").shell == "/tmp/a b"
    assert Expectation(command="/tmp/$(id)", pattern="x").shell == "/tmp/$(id)"


@pytest.mark.parametrize(
    ("kinds", "missing", "outcome"),
    [
        ((), (), "passed"),
        ((), ("kvm_intel",), "partly"),
        ((Kind.FAILURE,), (), "failed"),
        ((Kind.ERROR,), (), "inconclusive"),
        ((Kind.ERROR, Kind.FAILURE), ("kvm_intel",), "failed"),
    ],
)
def test_only_a_trial_in_which_everything_was_live_passed(
    kinds: tuple[Kind, ...], missing: tuple[str, ...], outcome: str
) -> None:
    report = TrialReport(
        release="6.1.0", build_id="ab", accelerator="tcg", transition_s=1.0, reverted=True, reloaded=True,
        clean_log=True, seconds=9.0, observations=(), not_live=tuple(NotLive(object=one, why="-") for one in missing),
        problems=tuple(Problem(code="x", kind=kind, message="-", advice="-") for kind in kinds),
    )  # fmt: skip
    assert report.outcome == outcome
    assert report.as_dict()["outcome"] == outcome
    assert report.as_dict()["passed"] is (outcome == "passed")
    assert (report.problem is None) is (not kinds)
    assert report.problem is None or (report.problem.kind is Kind.FAILURE) is (outcome == "failed")


def test_reports_and_livepatches_can_be_written_as_json() -> None:
    identity = KernelIdentity(
        release=parse_release("6.1.0"), build_id=BuildId("ab"), arch="x86_64", config_digest=Digest("0"), compiler="gcc"
    )
    function = PatchedFunction(object="vmlinux", name="f", sympos=0, source="fs/f.c")
    livepatch = Livepatch(
        name="livepatch_a",
        digest=Digest("1"),
        size_bytes=1,
        kernel=identity,
        build_key=Digest("2"),
        functions=(function,),
    )
    report = TrialReport(
        release="6.1.0", build_id="ab", accelerator="tcg", transition_s=1.0, reverted=True, reloaded=True,
        clean_log=True, seconds=9.0, problems=(),
        observations=(Observation(command="a", pattern="b", before="", during="b", after="", met=True),),
    )  # fmt: skip
    assert json.loads(json.dumps(livepatch.as_dict()))["functions"][0]["name"] == "f"
    assert json.loads(json.dumps(report.as_dict()))["passed"] is True
    assert Event(stage="base", message="m").as_dict() == {"stage": "base", "message": "m", "fraction": None}
    assert identity.as_dict()["release"] == "6.1.0"
