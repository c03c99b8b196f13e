# SPDX-License-Identifier: GPL-2.0-or-later
"""A simulated host that loads real modules, built, tried and signed by a real server; only the kernel is simulated."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field

from simulated_host import LoadedLivepatch, SimulatedHost

from elivepatch.trust.statement import Statement


@dataclass
class ModuleHost(SimulatedHost):
    """Simulated host whose kernel reads the functions that a module replaces from the proof stored beside it."""

    replaced: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def load(self, descriptor: int) -> None:
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        digest = hashlib.sha256(content).hexdigest()
        proof = json.loads((self.root / f"var/lib/elivepatch/files/{digest}.proof").read_bytes())
        statement = Statement.decode(base64.b64decode(proof["payload"]))
        name = statement.name
        self.replaced[name] = [(one.object, one.name) for one in statement.functions]
        functions = tuple(one.name for one in statement.functions)
        self.modules.append(name)
        self.loads += 1
        one = LoadedLivepatch(name, replace=statement.replace, functions=functions)
        self.livepatches.append(one)
        self._start(one)
        self._show()

    def _show(self) -> None:
        super()._show()
        for one in self.livepatches:
            for parent, function in self.replaced.get(one.name, []):
                place = self.root / "sys/kernel/livepatch" / one.name / parent / f"{function},1"
                place.mkdir(parents=True, exist_ok=True)
