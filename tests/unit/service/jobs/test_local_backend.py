# SPDX-License-Identifier: GPL-2.0-or-later
"""The real backend's scratch: what a killed process left goes, what a living one uses stays."""

from __future__ import annotations

import os
import signal
import subprocess  # noqa: TID251 - another server runs beside the test
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from elivepatch.build.base.store import Bases
from elivepatch.build.sandbox.bubblewrap import BUILD_UID
from elivepatch.service.jobs.local_backend import KEPT_KERNELS, LocalBackend
from elivepatch.service.jobs.step_process.program import make_backend
from elivepatch.settings import ServerSettings


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    one, another = (LocalBackend(ServerSettings(cache_dir=tmp_path)) for _ in range(2))
    left = tmp_path / "scratch" / "job-left"
    left.mkdir(parents=True)
    (left / "vmlinux").write_bytes(b"x")
    fresh = tmp_path / "scratch" / "job-fresh"
    fresh.mkdir()
    with one._scratch() as used:
        for directory in (left, used):
            os.utime(directory, (time.time() - 3600,) * 2)
        another.sweep()
        assert used.is_dir()
        assert not left.exists()
        assert fresh.is_dir()
    assert not used.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another group")
def test_the_directory_of_a_job_is_open_to_the_user_of_builds_alone(tmp_path: Path) -> None:
    with LocalBackend(ServerSettings(cache_dir=tmp_path))._scratch() as used:
        found = used.stat()
    assert (found.st_uid, found.st_gid, oct(found.st_mode & 0o7777)) == (0, BUILD_UID, "0o750")


def test_there_may_be_nothing_to_sweep(tmp_path: Path) -> None:
    LocalBackend(ServerSettings(cache_dir=tmp_path)).sweep()


OTHER_SERVER = """
import sys, time
from pathlib import Path
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings

with LocalBackend(ServerSettings(cache_dir=Path(sys.argv[1])))._scratch() as scratch:
    (scratch / "work").mkdir()
    print(scratch, flush=True)
    time.sleep(60)
"""


def test_two_servers_may_share_a_cache(tmp_path: Path) -> None:
    mine = LocalBackend(ServerSettings(cache_dir=tmp_path))
    with subprocess.Popen([sys.executable, "-c", OTHER_SERVER, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().decode().strip())
        os.utime(theirs, (time.time() - 3600,) * 2)
        mine.sweep()
        assert (theirs / "work").is_dir(), "the build of a living server"
        other.send_signal(signal.SIGSTOP)
        mine.sweep()
        assert (theirs / "work").is_dir(), "that of one that is frozen, too"
        other.kill()
        other.wait(timeout=10)
        mine.sweep()
        assert not theirs.exists(), "that of one that was killed"


def test_the_tables_of_the_last_few_kernels_only_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LocalBackend(ServerSettings(cache_dir=tmp_path))
    monkeypatch.setattr(Bases, "get", lambda _, release: SimpleNamespace(digest=f"digest of {release}"))
    bases = [backend.base(f"6.1.{number}") for number in range(KEPT_KERNELS)]
    assert backend.base("6.1.0") is bases[0], "its tables are read once"
    backend.base("6.2")
    assert backend.base("6.1.0") is bases[0]
    assert backend.base("6.1.1") is not bases[1], "that one was not asked for longest"
    for number in range(20):
        backend.base(f"6.3.{number}")
    assert len(backend._known) == KEPT_KERNELS


def test_a_backend_can_be_made_again_in_another_process(tmp_path: Path) -> None:
    settings = ServerSettings(
        cache_dir=tmp_path, jobs=3, workload_s=5.0, providers="source", sources="/etc/s.toml", packages="/p"
    )
    backend = LocalBackend(settings)
    again = make_backend(backend.recipe())
    assert isinstance(again, LocalBackend)
    assert again._settings == settings, "a setting that step processes do not get is one that nobody obeys"
    assert again.recipe() == backend.recipe()
    assert again.bases.directory == tmp_path / "bases"
