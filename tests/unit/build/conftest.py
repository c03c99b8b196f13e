# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the tests of the builders: none of them needs to be run by root."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def directories_change_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a user who is not root pretend to give directories to the sandbox's user."""
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "chown", lambda *_arguments, **_options: None)
