# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel inside an image for booting, a bzImage: vmlinux without symbols, compressed.

Source of the format: Documentation/arch/x86/boot.rst, "payload_offset" and "payload_length".
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

from elivepatch.build.kept.compressed import plain_zstd
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take, take_file
from elivepatch.model.errors import UsageError

_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_SETUP_SECTORS_AT, _PAYLOAD_AT = 0x1F1, 0x248
_SECTOR_BYTES = 512
_LIMIT_BYTES = 1 << 30
_SIZE_BYTES = 4  # the length of the kernel, which its build puts behind the compressed one; gzip has it itself
_ZSTD = b"\x28\xb5\x2f\xfd"
_PROGRAMS = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz"}


def kernel_of_image(directory: Path, name: str, into: Path, helper: Sandbox) -> Path:
    """Write the kernel that is inside the image `name` to `into` and return that.

    Raises UsageError with the code `image-format` for what is no bzImage or is compressed in another way than by gzip,
    xz or zstd; EnvironmentFault if it is damaged.
    """
    payload = payload_of(take(directory, name, limit_bytes=_LIMIT_BYTES))
    if payload.startswith(_ZSTD):
        into.write_bytes(plain_zstd(payload[:-_SIZE_BYTES]))
        return into
    program = next((one for magic, one in _PROGRAMS.items() if payload.startswith(magic)), None)
    if program is None:
        raise _refused("is compressed in a way that is not supported")
    scratch = Path(tempfile.mkdtemp(prefix=".image-", dir=into.parent))
    try:
        scratch.chmod(0o755)
        (scratch / "in").mkdir()
        (scratch / "in/payload").write_bytes(payload if program == "gzip" else payload[:-_SIZE_BYTES])
        output = writable_directory(scratch / "out")
        done = helper.run(
            ["sh", "-c", '"$1" -dc </in/payload >/out/kernel', "sh", program], inputs=scratch / "in", output=output
        )
        done.check("Decompressing the kernel's image")
        return take_file(output, "kernel", into, limit_bytes=_LIMIT_BYTES)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def payload_of(image: bytes) -> bytes:
    """Return the compressed kernel in an image."""
    if len(image) < _PAYLOAD_AT + 8 or image[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        raise _refused("is no bzImage")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    start = (image[_SETUP_SECTORS_AT] + 1) * _SECTOR_BYTES + offset
    if length <= _SIZE_BYTES or start + length > len(image):
        raise _refused("is truncated")
    return image[start : start + length]


def _refused(what: str) -> UsageError:
    return UsageError(
        "image-format",
        f"The kernel's image {what}, so the code that the debug file lacks cannot be taken from it.",
        advice="Give the stripped vmlinux with --vmlinux, and the directory of its debug file with --debug.",
    )
