# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: the way to the modules of tests/support."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
