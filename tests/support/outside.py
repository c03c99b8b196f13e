# SPDX-License-Identifier: GPL-2.0-or-later
"""Fake sandbox for unit tests: it runs trusted scripts on the host, and can leave what a hostile one would leave."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.process import Cancellation, Completed, run


@dataclass(slots=True)
class OutsideSandbox:
    """Runs programs with /in, /out, /src and /tools replaced by the real directories.

    They start in the writable directory if there is one. With `runs` false no program runs. After each, `leaves` is
    called with the directory of /out. `programs` are the command lines.
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
        tools: Path | None = None,
        env: Mapping[str, str] | None = None,
        on_tick: Callable[[float], None] | None = None,
        cancellation: Cancellation | None = None,
        **_: Any,
    ) -> Completed:
        """Run a program as `Sandbox.run` does, without any sandbox."""
        self.programs.append(tuple(argv))
        places = {"in": inputs, "out": output, "tools": tools, "src": writable}
        command = [_outside(one, places) for one in argv] if self.runs else ["true"]
        variables = {name: _outside(value, places) for name, value in (env or {}).items()}
        done = run(command, cwd=writable or "/", env=variables, on_tick=on_tick, cancellation=cancellation)
        if output is not None:
            self.leaves(output)
        return done


def _outside(word: str, places: Mapping[str, Path | None]) -> str:
    return re.sub("/(in|out|tools|src)(?![a-z])", lambda found: str(places[found[1]] or found[0]), word)
