# SPDX-License-Identifier: GPL-2.0-or-later
"""The page about proofs shows a proof that a host would accept, and names every code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from elivepatch.model.provenance import MATERIALS
from elivepatch.trust.statement import Statement

TOP = Path(__file__).parents[3]
PAGE = (TOP / "docs/proof.md").read_text(encoding="utf-8")


def test_the_example_is_a_statement_that_a_host_reads() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    statement = Statement.of(json.loads(example))
    assert {one.kind for one in statement.materials} == set(MATERIALS)
    shown = PAGE.partition("$ elivepatch verify")[2].partition("## What a host asks for")[0]
    for words in (statement.name, statement.build_id, statement.job, f"{statement.finished:%Y-%m-%d %H:%M:%S}"):
        assert words in shown


def test_every_code_of_a_refused_proof_is_described() -> None:
    sources = [*(TOP / "src/elivepatch/trust").glob("*.py"), *(TOP / "src/elivepatch/client/proof").glob("*.py")]
    text = "".join(file.read_text() for file in sources)
    codes = set(re.findall(r'"((?:proof|module|trial|builder)-[a-z]+)"', text)) - {"trial-partly", "trial-none"}
    codes |= set(re.findall(r'Claim\(code="([a-z-]+)"', text)) | {"not-identical", "same-server", "source-missing"}
    assert len(codes) > 20
    assert [code for code in sorted(codes) if f"`{code}`" not in PAGE] == []
