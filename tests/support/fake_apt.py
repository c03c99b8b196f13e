# SPDX-License-Identifier: GPL-2.0-or-later
"""Fake programs of apt: an archive whose suites may fail, and whose files may be gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from elivepatch.build.archive import apt, source_package
from elivepatch.process import Completed

TARGETS = "http://mirror.example/debian|Debian|Debian\nhttp://mirror.example/debian-security|Debian|Debian-Security\n"
MADISON = """
    gcc-16 | 16.2.0-4 | http://mirror.example/debian sid/main amd64 Packages
    gcc-16 | 16.2.0-4 | http://mirror.example/debian sid/main Sources
    gcc-16 | 16.2.0-3 | http://mirror.example/debian forky/main amd64 Packages
"""


class Apt:
    """The programs of apt: `fails` maps a suite to what its update prints; `answers` maps a command to its output.

    `updated` and `sources_updated` are the suites whose indexes of packages and of sources were fetched; `fetched` are
    the answers that indexes of sources bring. `download` puts a file into a directory, and returns status and log.
    `downloads` are the commands that did.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: dict[str, str] = {}
        self.answers: dict[str, str] = {"indextargets": TARGETS, "madison": MADISON}
        self.updated: list[str] = []
        self.sources_updated: list[str] = []
        self.fetched: dict[str, str] = {}
        self.downloads: list[Sequence[str]] = []
        self.download: Callable[[Path], tuple[int, str]] = lambda _: (0, "")
        monkeypatch.setattr(apt, "run", self)
        monkeypatch.setattr(source_package, "run", self)

    def __call__(self, argv: Sequence[str], *, cwd: Path | str = "/", **_: Any) -> Completed:
        status, log, text = 0, "", ""
        if "update" in argv:
            listed = next(word for word in argv if word.startswith("Dir::Etc::sourcelist="))
            lines = Path(listed.partition("=")[2]).read_text().splitlines()
            of_sources = any(line.startswith("deb-src ") for line in lines)
            named = [line.split()[-2] for line in lines]
            (self.sources_updated if of_sources else self.updated).extend(named)
            log = "".join(self.fails.get(f"{suite} sources" if of_sources else suite, "") for suite in named)
            status = 100 if log else 0
            if of_sources and not log:
                self.answers |= self.fetched
        elif "download" in argv or "source" in argv:
            self.downloads.append(argv)
            status, log = self.download(Path(cwd))
        else:
            text = next((answer for word, answer in self.answers.items() if word in argv), "")
        return Completed(
            argv=tuple(argv), status=status, output=text.encode(), log=log.encode(), seconds=0.1, timed_out=False
        )
