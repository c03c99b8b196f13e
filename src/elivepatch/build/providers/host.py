# SPDX-License-Identifier: GPL-2.0-or-later
"""The provider `host`: kernels whose files their host has sent (`elivepatch kernel push`).

The archive of the files holds `vmlinux`, `vmlinuz`, `Module.symvers`, `config`, `modules/...` as lib/modules/RELEASE
has them, `debug/...` with their debug files, `patches/...`, and the `record` of the build of a kernel without debug
information; that of the source holds one directory. Both come from outside: only programs in the sandbox unpack them,
and only plain files are taken out.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.store import Base
from elivepatch.build.kept.files import KeptBuild
from elivepatch.build.providers.provision import NotProvided, require_same_build
from elivepatch.build.providers.source import Declared, declared_for
from elivepatch.build.sandbox.bubblewrap import writable_directory
from elivepatch.build.sandbox.output import files_below, take_file
from elivepatch.files.atomic import move
from elivepatch.kernel.kbuild.record import RECORD
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import VMLINUX
from elivepatch.model.kernel_request import KernelRequest

_FILES_LIMIT_BYTES = 16 << 30
_SOURCE_LIMIT_BYTES = 4 << 30
_FILE_LIMIT_BYTES = 2 << 30
_PIECE_BYTES = 1 << 20
_NEEDED = (VMLINUX, "vmlinuz", "Module.symvers")


class HostProvider:
    """Makes the base of a kernel from the files in `pushed`, without building it."""

    name = "host"

    def __init__(self, maker: CustomMaker, declared: Sequence[Declared], pushed: Path, work_dir: Path) -> None:
        self._maker = maker
        self._declared = declared
        self._pushed = pushed
        self._work_dir = work_dir

    def provide(self, asked: KernelRequest) -> Base | NotProvided:
        """Make the base if the host has sent the kernel's files, and its source is sent or declared."""
        if not asked.files:
            return NotProvided(
                why="The host has not sent the files of its kernel.",
                advice="On the host, `elivepatch kernel push` sends what the kernel's build left.",
            )
        declared = declared_for(self._declared, asked.release)
        if not asked.source and declared is None:
            return NotProvided(
                why=f"The host has sent no source, and none is declared for {asked.release}.",
                advice="On the host, `elivepatch kernel push --source DIR` sends it too.",
            )
        files = self._unpacked_files()
        kept = _kept(files)
        require_same_build(kept.vmlinux, asked, whose="The vmlinux that the host sent")
        config = files / "config"
        if not config.is_file():
            config.write_bytes(asked.config)
        if declared is not None and not asked.source:
            source, built_in = declared.source_of(asked.release), False
        else:
            source, built_in = str(self._plain("source", _SOURCE_LIMIT_BYTES)), True
        return self._maker.add(
            CustomKernel(
                release=asked.release,
                source=source,
                config=config,
                base_patches=tuple(sorted(files.glob("patches/*"))),
                kept=kept,
                build_id=asked.build_id or None,
                built_in=built_in,
            )
        )

    def _unpacked_files(self) -> Path:
        """Return a directory with the files of the archive, plain files of ours."""
        self._maker.context.report("unpacking the host's files")
        packed = self._work_dir / "in"
        packed.mkdir()
        move(self._plain("files", _FILES_LIMIT_BYTES), packed / "files.tar")
        raw = writable_directory(self._work_dir / "raw")
        command = ["tar", "-x", "-f", "/in/files.tar", "--no-same-permissions", "--no-same-owner", "-C", "/out"]
        helper = self._maker.context.helper_sandbox()
        helper.run(command, inputs=packed, output=raw, timeout_s=1800).check("Unpacking the host's files")
        shutil.rmtree(packed)
        files = self._work_dir / "files"
        files.mkdir()
        for name in files_below(raw):
            target = files / name
            target.parent.mkdir(parents=True, exist_ok=True)
            take_file(raw, name, target, limit_bytes=_FILE_LIMIT_BYTES)
        shutil.rmtree(raw)
        return files

    def _plain(self, name: str, limit_bytes: int) -> Path:
        """Return the archive `name`, decompressed; raises UsageError if it is damaged or too large."""
        plain = self._work_dir / f"{name}.tar"
        size = 0
        try:
            with gzip.open(self._pushed / f"{name}.tar.gz") as packed, plain.open("xb") as written:
                while piece := packed.read(_PIECE_BYTES):
                    size += len(piece)
                    if size > limit_bytes:
                        raise UsageError(
                            "pushed-large",
                            f"The host's archive `{name}` is larger than {limit_bytes >> 30} GiB.",
                            advice="Send the files of one kernel.",
                        )
                    written.write(piece)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UsageError(
                "pushed-damaged",
                f"The host's archive `{name}` is no gzip stream: {error}.",
                advice="Push the kernel again with `elivepatch kernel push`.",
            ) from error
        return plain


def _kept(files: Path) -> KeptBuild:
    missing = [name for name in _NEEDED if not (files / name).is_file()]
    if missing:
        raise UsageError(
            "pushed-incomplete",
            f"The host's archive lacks {', '.join(missing)}.",
            advice="Push the kernel again with `elivepatch kernel push`.",
        )
    modules, debug, record = files / "modules", files / "debug", files / RECORD
    return KeptBuild(
        vmlinux=files / VMLINUX,
        vmlinuz=files / "vmlinuz",
        symvers=files / "Module.symvers",
        modules=modules if modules.is_dir() else None,
        debug=debug if debug.is_dir() else None,
        record=record if record.is_file() else None,
    )
