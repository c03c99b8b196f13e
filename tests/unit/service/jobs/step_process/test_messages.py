# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages between the server and its step processes: each arrives as it was sent, nothing else is taken for one."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.build import BuildRequest
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.jobs.step_process.messages import (
    BuildCall,
    Built,
    MalformedMessage,
    Message,
    Recipe,
    Refused,
    Report,
    Tried,
    decode,
    encode,
)

# NaN is not equal to itself; no message holds one.
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(Path, st.text(st.characters(exclude_characters="\0"), min_size=1).map(Path))


@given(st.one_of([st.from_type(kind) for kind in typing.get_args(Message)]))
def test_every_message_arrives_as_it_was_sent_and_is_one_line(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


def test_a_patch_may_hold_any_bytes() -> None:
    request = BuildRequest(release="6.1", series=PatchSeries((SourcePatch("fix\udcff.patch", bytes(range(256))),)))
    call = BuildCall(request=request, build_key=Digest("ab" * 32), work_dir=Path("/w"), log=Path("/l"), tenant="web")
    assert decode(encode(call)) == call


@given(st.binary())
def test_bytes_that_are_no_message_are_refused(line: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(line)


def changed(message: Message, *path: str | int, value: object) -> bytes:
    document = json.loads(encode(message))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((0,), "Recipe"),
        ((0,), "os.system"),
        ((1,), {}),
        ((1,), None),
        ((1, "event", "stage"), 5),
        ((1, "event", "fraction"), "half"),
        ((1, "event", "fraction"), True),
        ((1, "event", "more"), "x"),
    ],
)
def test_a_message_with_a_field_of_another_type_is_refused(path: tuple[str | int, ...], value: object) -> None:
    message = Report(event=Event(stage="compile", message="compiles", fraction=0.5))
    assert decode(changed(message, 1, "event", "fraction", value=None)) == Report(
        event=Event(stage="compile", message="compiles")
    )
    with pytest.raises(MalformedMessage):
        decode(changed(message, *path, value=value))


def test_the_types_of_the_protocol_are_those_of_the_model() -> None:
    names = {kind.__name__ for kind in typing.get_args(Message)}
    assert names >= {Built.__name__, Tried.__name__, Refused.__name__}
    assert Recipe.__name__ not in names
