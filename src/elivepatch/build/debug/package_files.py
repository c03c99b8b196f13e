# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a package as they come out of its compressed archive: none is on the disk longer than it is looked at.

The debug package of an ordinary kernel has up to 7 GB of files, of which a base keeps a hundredth.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import Cancellation, Completed

_TIMEOUT_S = 1800.0
_PIECE_BYTES = 64 << 10  # what a pipe holds


@contextmanager
def package_files(
    package: Path, helper: Sandbox, cancellation: Cancellation | None = None
) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Yield the names of the plain files of a Debian package, each with a stream of it that ends with the next name.

    dpkg-deb decompresses the package in the sandbox. Raises EnvironmentFault if that fails.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as stream, ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(_printed, package, helper, os.fdopen(writing, "wb"), cancellation)
        try:
            yield _files(stream, lambda: pending.result())
        finally:
            # A program whose output nobody reads any more ends.
            stream.close()


def _printed(package: Path, helper: Sandbox, into: IO[bytes], cancellation: Cancellation | None) -> Completed:
    with into:
        return helper.run(
            ["dpkg-deb", "--fsys-tarfile", f"/in/{package.name}"],
            inputs=package.parent, printed_to=into, timeout_s=_TIMEOUT_S, cancellation=cancellation,
        )  # fmt: skip


def _files(stream: IO[bytes], ended: Callable[[], Completed]) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE_BYTES) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield member.name, file
    except tarfile.TarError as error:
        # An archive that ends too early is the program's failure, if that failed.
        ended().check("Reading a package")
        raise EnvironmentFault(
            "package-damaged", f"A package's archive cannot be read: {error}.", advice="Fetch the package again."
        ) from error
    ended().check("Reading a package")
