# SPDX-License-Identifier: GPL-2.0-or-later
"""The trial of a job runs again, and a person looks round in its guest."""

from __future__ import annotations

import json
import os
import pty
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from elivepatch.build.base.store import Base
from elivepatch.files.digest import sha256
from elivepatch.model.build import BuildOutcome, BuildRequest, Livepatch, Result
from elivepatch.model.kernel import Digest
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.service.db.database import open_tables
from elivepatch.service.jobs.jobs import Jobs, NewJob, Outcome
from elivepatch.service.jobs.records import keep_request
from elivepatch.service.resources import open_store
from elivepatch.service.state_directory import make_state_directory
from elivepatch.settings import ServerSettings

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

MEMINFO = Path(__file__).parents[2] / "demo/patches/vmlinux-meminfo.patch"
PROMPT = "guest, during # "
Built = Callable[..., BuildOutcome]


@pytest.fixture
def job(base_6_1: Base, build: Built, settings: ServerSettings, tmp_path: Path) -> str:
    """Return a job whose trial failed, with what a server keeps of it in `tmp_path`/state."""
    made = build(base_6_1, MEMINFO.read_text(), name="livepatch_replayed")
    assert made.module is not None
    content = made.module.read_bytes()
    key = Digest("ab" * 32)
    livepatch = Livepatch(
        name="livepatch_replayed", digest=sha256(content), size_bytes=len(content), kernel=base_6_1.identity,
        build_key=key, functions=made.functions,
    )  # fmt: skip
    kept = ServerSettings(state_dir=tmp_path / "state", cache_dir=settings.cache_dir)
    make_state_directory(kept.state_dir)
    store, database = open_store(kept), open_tables(kept)
    store.put(content)
    request = BuildRequest(
        release=base_6_1.release, series=PatchSeries((SourcePatch("x.patch", MEMINFO.read_bytes()),)),
        expectations=(Expectation(command="/proc/meminfo", pattern="VMALLOCCHUNK"),),
    )  # fmt: skip
    jobs = Jobs(database)
    asked = NewJob(
        job_key=key, build_key=key, release=base_6_1.release, kernel_build_id=base_6_1.identity.build_id,
        request=keep_request(request, store),
    )  # fmt: skip
    submitted, _ = jobs.submit(asked)
    jobs.begin(submitted.id)
    report = {"livepatch": livepatch.as_dict(), "trial": {"outcome": "failed"}}
    ended = Outcome(result=Result.FAILURE, reusable=False, report=report)
    jobs.finish(submitted.id, ended, ended)
    database.dispose()
    return submitted.id


class Session:
    """A command on a terminal of its own."""

    def __init__(self, *argv: str) -> None:
        self.seen = ""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            program = "import sys; from elivepatch.service.cli import main; sys.exit(main())"
            os.execv(sys.executable, [sys.executable, "-c", program, *argv])  # noqa: S606 - on a terminal of its own

    def wait_for(self, words: str, limit_s: float = 120) -> str:
        """Return what the terminal got up to `words`, and forget it."""
        until = time.monotonic() + limit_s
        while words not in self.seen:
            assert time.monotonic() < until, self.seen
            if select.select([self.terminal], [], [], 1)[0]:
                self.seen += os.read(self.terminal, 4096).decode(errors="replace")
        found, _, self.seen = self.seen.partition(words)
        return found

    def type(self, line: str) -> None:
        os.write(self.terminal, line.encode() + b"\r")

    def end(self) -> int:
        until = time.monotonic() + 60
        while time.monotonic() < until and select.select([self.terminal], [], [], 10)[0]:
            try:
                self.seen += os.read(self.terminal, 4096).decode(errors="replace")
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_person_looks_round_in_the_guest_while_the_livepatch_is_live(
    job: str, settings: ServerSettings, tmp_path: Path
) -> None:
    console = tmp_path / "console.log"
    session = Session(
        "trial", "replay", job, "--interactive", "--console", str(console), "--json",
        "--state", str(tmp_path / "state"), "--cache", str(settings.cache_dir),
    )  # fmt: skip
    session.wait_for(PROMPT)
    session.type("grep -c VMALLOCCHUNK /proc/meminfo; ls /sys/kernel/livepatch")
    assert "\r\n1\r\nlivepatch_replayed\r\n" in session.wait_for(PROMPT)
    session.type(r"printf 'a\033]0;title\007b\033[31mc\n'")
    assert "\r\na]0;titleb\x1b[31mc\r\n" in session.wait_for(PROMPT), "no sequence sets the terminal's title"
    session.type("exit")
    assert session.end() == 0
    shown = json.loads(session.seen[session.seen.index("{") :])
    assert (shown["job"], shown["interactive"], shown["phase"], shown["problem"]) == (job, True, "during", None)
    assert "livepatch: 'livepatch_replayed': patching complete" in console.read_text(errors="replace")
