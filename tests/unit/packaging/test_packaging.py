# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of an installation: units, scripts, completions and pages."""

from __future__ import annotations

from pathlib import Path

CLIENT = Path(__file__).parents[3] / "requirements/client.txt"
MOST = 12


def test_the_plain_install_is_at_most_twelve_packages_with_elivepatch_itself() -> None:
    pinned = [line for line in CLIENT.read_text().splitlines() if "==" in line and not line.startswith("#")]
    assert pinned
    assert len(pinned) + 1 <= MOST
