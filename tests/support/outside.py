# SPDX-License-Identifier: GPL-2.0-or-later
"""Fake sandbox for unit tests: it runs trusted scripts on the host, and can leave what a hostile one would leave."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.process import Completed, run


@dataclass(slots=True)
class OutsideSandbox:
    """Runs programs with /in and /out replaced by the real directories, then calls `leaves` with the output directory.

    They start in the writable directory if there is one. With `runs` false no program runs. `programs` are the command
    lines.
    """

    leaves: Callable[[Path], None] = lambda _output: None
    runs: bool = True
    programs: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def sandbox(self) -> Sandbox:
        """Return itself as what the product expects."""
        return cast("Sandbox", self)

    def run(
        self,
        argv: Sequence[str],
        *,
        output: Path | None = None,
        inputs: Path | None = None,
        writable: Path | None = None,
        **_: Any,
    ) -> Completed:
        """Run a program as `Sandbox.run` does, without any sandbox."""
        self.programs.append(tuple(argv))
        command = [_outside(one, inputs, output) for one in argv]
        done = run(command if self.runs else ["true"], cwd=writable or "/")
        if output is not None:
            self.leaves(output)
        return done


def _outside(word: str, inputs: Path | None, output: Path | None) -> str:
    places = {"in": inputs, "out": output}
    return re.sub("/(in|out)(?![a-z])", lambda found: str(places[found[1]]), word)
