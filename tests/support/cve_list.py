# SPDX-License-Identifier: GPL-2.0-or-later
"""Small CVE lists and their fixes, made for a test."""

from __future__ import annotations

import json
from pathlib import Path


class CveList:
    """A directory of records and one of fixes; every CVE is in 5.4 and fixed in 6.1.1NN."""

    def __init__(self, top: Path) -> None:
        self.records = top / "records"
        self.fixes = top / "fixes"
        self.policy = top / "policy.toml"
        for directory in (self.records, self.fixes):
            directory.mkdir(parents=True)
        self.write_policy()

    def write_policy(self, choose: str = "", auto: str = "") -> None:
        self.policy.write_text(
            f'[choose]\n{choose}\n[records]\nsource = "{self.records}"\n[auto]\n{auto}\n'
            f'[[fixes]]\ndirectory = "{self.fixes}"\n'
        )

    def add(self, number: int, *words: str, file: str = "", score: float | None = None, fixed: int = 180) -> str:
        """Add CVE-2030-3NNNN, with a fix that contains `words` if there are any. Return the id."""
        name = f"CVE-2030-{30000 + number}"
        file = file or f"drivers/lamp/part{number}.c"
        metrics = [] if score is None else [{"cvssV3_1": {"baseScore": score, "vectorString": ""}}]
        cna = {"title": f"lamp: part {number}", "affected": [{"programFiles": [file]}], "metrics": metrics}
        record = {"cveMetadata": {"cveId": name, "state": "PUBLISHED"}, "containers": {"cna": cna}}
        (self.records / f"{name}.json").write_text(json.dumps(record))
        (self.records / f"{name}.dyad").write_text(f"5.4:{'a' * 40}:6.1.{fixed}:{number:040x}\n")
        if words:
            diff = f"--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n-dark {number}\n+light {number}\n"
            (self.fixes / f"{name}.patch").write_text("\n".join([f"function fix_{number}", *words, diff]))
        return name
