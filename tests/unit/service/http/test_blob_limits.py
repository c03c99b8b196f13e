# SPDX-License-Identifier: GPL-2.0-or-later
"""What uploads may take, and for how long they are kept."""

from __future__ import annotations

import os
import tarfile
import time
from pathlib import Path

import pytest
from assembled import assembled
from blobs import ask, begin, left_on_disk, path_of, refused, resume, stands

from elivepatch.service import uploads
from elivepatch.service.access.accounts import Role
from elivepatch.service.backup import backup
from elivepatch.service.retention import Retention
from elivepatch.service.store import digest_of
from elivepatch.service.uploads import MAX_UPLOAD_BYTES

CONTENT = b"sleep 0\nuploaded\n" * 1000
DAY_S = 24 * 3600


def test_what_a_tenant_may_upload_has_a_limit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "TENANT_BYTES", 2 * MAX_UPLOAD_BYTES + 300_000)
    with assembled(tmp_path) as server:
        red = server.token("red", Role.PATCHER, tenant="red")
        assert server.http.put(path_of(CONTENT), content=CONTENT).status_code == 201
        assert begin(server, b"a", b"").status_code == 201
        full = begin(server, b"b", b"")
        assert full.status_code == 201, "256 KiB and two unfinished ones are within the limit"
        full = begin(server, b"c", b"")
        refused(full, 429, "too-many-uploads")
        assert int(full.headers["retry-after"]) > 0
        assert server.http.head(path_of(b"c")).status_code == 404
        assert server.http.put(path_of(CONTENT), content=CONTENT).status_code == 204, "what is there takes no room"
        assert begin(server, b"a", b"").status_code == 201, "nor does one that is begun again"
        assert resume(server, b"a", b"a", offset=0).status_code == 204
        assert begin(server, b"c", b"").status_code == 429, "a finished one counts with 256 KiB at least"
        assert server.http.put(path_of(CONTENT), content=CONTENT, headers=red).status_code == 201


def test_nothing_is_uploaded_where_the_disk_is_almost_full(tmp_path: Path) -> None:
    with assembled(tmp_path, disk_reserve_mib=2**40) as server:
        refused(server.http.put(path_of(CONTENT), content=CONTENT), 507, "disk-full")
        refused(resume(server, CONTENT, CONTENT, offset=0), 507, "disk-full")


def test_uploads_go_after_a_day_and_what_jobs_need_stays(tmp_path: Path) -> None:
    with assembled(tmp_path) as server:
        kept, unfinished, young = CONTENT + b"kept", CONTENT + b"unfinished", CONTENT + b"young"
        for one in (kept, CONTENT):
            server.http.put(path_of(one), content=one)
        begin(server, unfinished, unfinished[:9])
        job = ask(server, kept).json()["id"]
        for file in (*left_on_disk(server), *(server.state / "store").rglob("*")):
            if file.is_file():
                os.utime(file, (time.time() - 1.1 * DAY_S,) * 2)
        server.http.put(path_of(young), content=young)
        begin(server, young + b"!", young)
        assert Retention(server.services.resources).sweep()["uploads"] == 3
        for gone in (kept, CONTENT, unfinished):
            assert server.http.head(path_of(gone)).status_code == 404
        assert stands(server.http.head(path_of(young))) == (204, len(young), "?1")
        assert stands(server.http.head(path_of(young + b"!"))) == (204, len(young), "?0")
        assert server.services.resources.store.get(digest_of(kept)) == kept
        assert server.http.get(f"/v1/builds/{job}").status_code == 200
        refused(ask(server, kept), 404, "blob-unknown")


def test_an_old_upload_that_is_just_gone_on_with_stays(tmp_path: Path) -> None:
    with assembled(tmp_path) as server:
        held, digest = server.services.resources.uploads, digest_of(CONTENT)
        begin(server, CONTENT, CONTENT[:9])
        (file,) = left_on_disk(server)
        os.utime(file, (time.time() - 2 * DAY_S,) * 2)
        turn = held.resume("default", digest, offset=9, length=None)
        assert turn is not None
        assert held.sweep() == 0
        turn.write(CONTENT[9:])
        turn.finish()
        assert held.get("default", digest) == CONTENT


def test_an_upload_outlives_its_server(tmp_path: Path) -> None:
    with assembled(tmp_path) as server:
        begin(server, CONTENT, CONTENT[:100])
    with assembled(tmp_path) as server:
        assert stands(server.http.head(path_of(CONTENT))) == (204, 100, "?0")
        assert stands(resume(server, CONTENT, CONTENT[100:], offset=100)) == (204, len(CONTENT), "?1")


def test_a_backup_has_what_jobs_need_of_uploads_and_not_the_uploads(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with assembled(tmp_path / "state") as server:
        server.http.put(path_of(CONTENT), content=CONTENT)
        begin(server, CONTENT + b"more", CONTENT)
        assert ask(server, CONTENT).status_code == 202
        backup(server.services.resources.settings, tmp_path / "backup.tar")
    with tarfile.open(tmp_path / "backup.tar") as archive:
        names = archive.getnames()
    digest = digest_of(CONTENT)
    assert f"store/sha256/{digest[:2]}/{digest}" in names
    assert not [name for name in names if "uploads" in name]
