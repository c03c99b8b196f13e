# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation says what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
_spec = importlib.util.spec_from_file_location("generate", TOP / "docs/generate.py")
assert _spec is not None
assert _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", sorted(generate.PAGES))
def test_generated_page_is_up_to_date(name: str) -> None:
    assert (TOP / name).read_text(encoding="utf-8").rstrip() == generate.PAGES[name]().rstrip(), "run make docs"
