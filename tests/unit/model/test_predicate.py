# SPDX-License-Identifier: GPL-2.0-or-later
"""A predicate is a program with limits that its own comments name; what is not is refused with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.build import BuildRequest, RequestReference
from elivepatch.model.errors import UsageError
from elivepatch.model.predicate import SOURCE_LIMIT_BYTES, Limits, Predicate
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.records import job_key

SOURCE = "int main(void) { return 1; }\n"


def limits_of(*lines: str, name: str = "lamp.expect.c") -> Limits:
    return Predicate.of(name, "\n".join([*lines, SOURCE]).encode()).limits


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("", Limits()),
        ("/* elivepatch: seconds=10 memory=100 */", Limits(seconds=10, memory=100)),
        ("// elivepatch: output=60 processes=256", Limits(output=60, processes=256)),
        (" * elivepatch: modules=ip_tables,xt-connmark", Limits(modules=("ip_tables", "xt_connmark"))),
        ("# elivepatch: seconds=30", Limits(seconds=30)),
        ('puts("elivepatch: seconds=99");', Limits()),
    ],
)
def test_limits_are_read_from_a_comment(line: str, limits: Limits) -> None:
    assert limits_of(line) == limits


def test_limits_may_stand_on_several_lines_at_the_top_only() -> None:
    assert limits_of("// elivepatch: seconds=9", "// elivepatch: memory=9") == Limits(seconds=9, memory=9)
    assert limits_of(*["//"] * 30, "// elivepatch: seconds=9") == Limits()


@pytest.mark.parametrize(
    "line",
    [
        "// elivepatch: seconds=0", "// elivepatch: seconds=31", "// elivepatch: memory=3",
        "// elivepatch: seconds=1.5",
        "// elivepatch: seconds=-1", "// elivepatch: seconds=", "// elivepatch: hours=1", "// elivepatch: seconds",
        "// elivepatch: seconds=1 seconds=2", "// elivepatch: modules=../x", "// elivepatch: modules=",
        "// elivepatch: modules=" + ",".join("abcdefghijklmnopq"), "// elivepatch: seconds=\u0661",
    ],
)  # fmt: skip
def test_a_limit_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        limits_of(line)
    assert caught.value.problem.code == "predicate"
    assert "lamp.expect.c" in caught.value.problem.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lamp.py", b"x"), ("../lamp.c", b"x"), ("", b"x"), ("-.c", b"x"), ("a b.c", b"x"), ("lamp.c", b""),
        ("lamp.c", b" \n"), ("lamp.c", b"a\0b"), ("lamp.c", b"\xff"), ("lamp.c", b"x" * (SOURCE_LIMIT_BYTES + 1)),
        ("x" * 90 + ".c", b"x"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_predicate_is_refused(name: str, content: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        Predicate.of(name, content)
    assert caught.value.problem.code == "predicate"


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"// elivepatch: {text}".encode()))
def test_any_bytes_are_a_predicate_or_refused(content: bytes) -> None:
    try:
        limits = Predicate.of("lamp.c", content).limits
    except UsageError:
        return
    assert 1 <= limits.seconds <= 30


@given(
    st.builds(
        Limits, seconds=st.integers(1, 30), memory=st.integers(4, 256), output=st.integers(1, 60),
        processes=st.integers(1, 256),
        modules=st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True), max_size=16).map(tuple),
    )
)  # fmt: skip
def test_limits_that_were_written_are_read_again(limits: Limits) -> None:
    words = f"seconds={limits.seconds} memory={limits.memory} output={limits.output} processes={limits.processes}"
    words += f" modules={','.join(limits.modules)}" if limits.modules else ""
    assert limits_of(f"# elivepatch: {words}", name="lamp.sh") == limits


def request(*expectations: Expectation) -> BuildRequest:
    return BuildRequest(
        release="6.1.0", series=PatchSeries((SourcePatch("one.patch", b"one"),)), expectations=expectations
    )


def lamp(source: str = SOURCE) -> Expectation:
    return Expectation.of(Predicate(name="lamp.expect.c", source=source))


def test_a_request_keeps_its_predicates() -> None:
    document = json.loads(json.dumps(request(lamp()).to_json()))
    assert RequestReference.from_json(document).expectations == (lamp(),)


def test_a_request_without_a_predicate_has_the_spelling_that_older_servers_know() -> None:
    (document,) = request(Expectation(command="x", pattern="y")).to_json()["expectations"]
    assert document == {"command": "x", "pattern": "y"}


def test_another_predicate_is_another_job() -> None:
    keys = {
        job_key("0" * 64, request(*expected))  # type: ignore[arg-type]
        for expected in ((), (lamp(),), (lamp(SOURCE + "\n"),), (Expectation(command="lamp.expect.c", pattern=""),))
    }
    assert len(keys) == 4


def test_a_request_whose_predicates_take_too_long_together_is_refused() -> None:
    slow = [Predicate(name=f"lamp{n}.c", source=f"// elivepatch: seconds=30\n{SOURCE}") for n in range(5)]
    assert RequestReference.from_json(request(*map(Expectation.of, slow[:4])).to_json())
    with pytest.raises(UsageError, match="more than 120 s"):
        RequestReference.from_json(request(*map(Expectation.of, slow)).to_json())


@pytest.mark.parametrize("program", [{"name": "../x.c", "source": SOURCE}, {"name": "x.c", "source": ""}])
def test_a_predicate_in_a_request_is_checked(program: dict[str, str]) -> None:
    document = request().to_json()
    document["expectations"] = [{"command": "x", "pattern": "", "predicate": program}]
    with pytest.raises(UsageError):
        RequestReference.from_json(document)
