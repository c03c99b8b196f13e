# SPDX-License-Identifier: GPL-2.0-or-later
"""A throw-away object store that speaks S3: OpenStack Swift on loopback, one replica, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess  # noqa: TID251 - the servers run beside the test
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store
from running_server import free_port

from elivepatch.process import run

USER = "swift"
# Swift reads the secret of its paths from this file only.
GLOBAL = Path("/etc/swift/swift.conf")
PROXY = Path("/usr/bin/swift-proxy-server")
BUCKET = "elivepatch"

_STORAGE = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
mount_check = false
devices = {top}/devices
swift_dir = {top}
disable_fallocate = true
log_name = {kind}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_PROXY = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {top}
[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
"""


def is_installed() -> bool:
    """Check if the packages are installed and this user may run them."""
    return PROXY.exists() and GLOBAL.exists() and os.geteuid() == 0


class Swift:
    """The servers of one store with one bucket."""

    def __init__(self) -> None:
        self._top = Path(tempfile.mkdtemp(prefix="elivepatch-swift-"))
        self._ports = {kind: free_port() for kind in ("account", "container", "object", "proxy")}
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a server that uses the store."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports['proxy']}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test:tester",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/here"

    def __enter__(self) -> Self:
        (self._top / "devices" / "d1").mkdir(parents=True)
        for kind, port in self._ports.items():
            text = _PROXY if kind == "proxy" else _STORAGE
            (self._top / f"{kind}-server.conf").write_text(text.format(kind=kind, port=port, top=self._top))
        for kind in ("account", "container", "object"):
            builder = str(self._top / f"{kind}.builder")
            for words in (
                ("create", "1", "1", "1"),
                ("add", f"r1z1-127.0.0.1:{self._ports[kind]}/d1", "1"),
                ("rebalance",),
            ):
                run(["swift-ring-builder", builder, *words]).check("swift-ring-builder")
        identity = pwd.getpwnam(USER)
        for place in (self._top, *self._top.rglob("*")):
            os.chown(place, identity.pw_uid, identity.pw_gid)
        for kind in self._ports:
            drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
            argv = [*drop, f"/usr/bin/swift-{kind}-server", str(self._top / f"{kind}-server.conf"), "-v"]
            with (self._top / f"{kind}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
                )
        self._make_bucket()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)
        shutil.rmtree(self._top, ignore_errors=True)

    def _make_bucket(self) -> None:
        # obstore has no call for it: a bucket is what a PUT to its own path makes, and with virtual-hosted requests the
        # store adds no bucket's name to the path.
        store = S3Store(
            "none",
            virtual_hosted_style_request=True,
            endpoint=self.environment["AWS_ENDPOINT_URL"],
            region="us-east-1",
            access_key_id="test:tester",
            secret_access_key="testing",
            client_options={"allow_http": True},
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                obstore.put(store, BUCKET, b"", use_multipart=False)
            except AlreadyExistsError:
                return
            except BaseError:
                # The server has just started, or answers for the bucket already but not for its files.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
