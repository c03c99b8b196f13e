# SPDX-License-Identifier: GPL-2.0-or-later
"""The channel to a guest is made of descriptors: QEMU needs no file name for it."""

from __future__ import annotations

import os

import pytest

from elivepatch.trial.outside.channel import open_channel
from elivepatch.trial.outside.errors import NotSeen


def test_the_ram_is_an_anonymous_file_of_the_guests_size() -> None:
    with open_channel(1 << 20) as channel:
        assert os.fstat(channel.memory).st_size == 1 << 20
        assert f"size={1 << 20},mem-path=/proc/self/fd/{channel.memory}" in channel.options[1]
        assert channel.memory in channel.descriptors


def test_the_death_of_qemu_is_seen_once_it_has_started() -> None:
    with open_channel(4096) as channel:
        channel.started()
        with pytest.raises(NotSeen, match="closed"):
            channel.qmp.execute("stop")


def test_nothing_stays_open_at_the_end() -> None:
    with open_channel(4096) as channel:
        memory = channel.memory
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory)
