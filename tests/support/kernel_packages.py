# SPDX-License-Identifier: GPL-2.0-or-later
"""Small packages of a kernel, made by the packagers' own tools, with files that look like a kernel's."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from elf_maker import Made
from pushing_host import BUILD_ID, RELEASE, notes

from elivepatch.process import run

CODE = bytes(range(64))
CONFIG = b"CONFIG_X86_64=y\nCONFIG_LIVEPATCH=y\nCONFIG_MODULES=y\nCONFIG_KALLSYMS_ALL=y\n"
MODULES = ("fs/fat/fat", "net/802/stp")


def elf(*, code: bool = True, debug: bool = True, build_id: str = BUILD_ID) -> bytes:
    """Return a kernel or a module: whole, stripped of its debug information, or its debug file."""
    made = Made().section(".text", CODE, code=True) if code else Made()
    if not code:
        made.sections.append((".text", "NOBITS", 0x6, 0, b"", len(CODE)))
    made.section(".note.gnu.build-id", notes(build_id), kind="NOTE")
    if debug:
        made.section(".debug_info", b"information")
    return made.data()


_WAYS = {
    "xz": ["xz", "--check=crc32", "-c"], "zstd": ["zstd", "-qc"], "bzip2": ["bzip2", "-c"], "lzma": ["lzma", "-c"],
    "lz4": ["lz4", "-lqc"],
}  # fmt: skip


def image(build_id: str = BUILD_ID, *, way: str = "gzip") -> bytes:
    """Return a bzImage with the stripped kernel in it, compressed as the kernel's build does."""
    kernel = elf(debug=False, build_id=build_id)
    if way == "gzip":
        payload = gzip.compress(kernel, mtime=0)
    else:
        payload = run(_WAYS[way], stdin=kernel).check("Compressing").output + struct.pack("<I", len(kernel))
    head = bytearray(1024)
    head[0x1F1], head[0x202:0x206] = 1, b"HdrS"
    head[0x248:0x250] = struct.pack("<II", 0, len(payload))
    return bytes(head) + payload


def image_files(release: str = RELEASE, build_id: str = BUILD_ID) -> dict[str, bytes]:
    """Return the files of a package with the image and the modules."""
    modules = {f"lib/modules/{release}/kernel/{name}.ko": elf(debug=False, build_id="ab" * 20) for name in MODULES}
    return modules | {
        f"boot/vmlinuz-{release}": image(build_id),
        f"boot/config-{release}": CONFIG,
        f"lib/modules/{release}/modules.order": "".join(f"kernel/{name}.ko\n" for name in MODULES).encode(),
        "usr/share/doc/linux/README": b"of no use for a base",
    }


def headers_files(release: str = RELEASE) -> dict[str, bytes]:
    """Return the files of a package with what modules are built against."""
    return {
        f"usr/src/linux-headers-{release}/Module.symvers": b"0x1\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n",
        f"usr/src/linux-headers-{release}/include/linux/fs.h": b"struct file;",
    }


def debug_files(release: str = RELEASE, build_id: str = BUILD_ID) -> dict[str, bytes]:
    """Return the files of a package with debug information: a whole vmlinux, and debug files of the modules."""
    modules = f"usr/lib/debug/lib/modules/{release}"
    files = {f"{modules}/kernel/{name}.ko": elf(code=False, build_id="ab" * 20) for name in MODULES}
    return files | {f"{modules}/vmlinux": elf(build_id=build_id)}


def make_deb(
    directory: Path, name: str, files: Mapping[str, bytes], *, version: str = "6.12.40-1", listed: bool = True,
    way: str = "xz", links: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Make a .deb, with a list of digests unless `listed` is false, compressed in the way `way`."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _write(root, files, links)
        control = root / "DEBIAN"
        control.mkdir(mode=0o755)
        about = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: a <a@example.org>\n"
        (control / "control").write_text(f"{about}Description: a test\n")
        if listed:
            sums = (f"{hashlib.md5(content).hexdigest()}  {path}\n" for path, content in files.items())  # noqa: S324
            (control / "md5sums").write_text("".join(sums))
        path = directory / f"{name}_{version}_amd64.deb"
        run(["dpkg-deb", "--root-owner-group", f"-Z{way}", "-b", root, path]).check("Making a package")
    return path


def make_rpm(
    directory: Path, name: str, files: Mapping[str, bytes], *, ghosts: Sequence[str] = (), special: str = "",
    prepare: str = "", sources: Mapping[str, bytes] | None = None, made: Mapping[str, bytes] | None = None,
) -> tuple[Path, Path]:  # fmt: skip
    """Make an RPM of version 6.12.40-1 and its source RPM; return both.

    `ghosts` are files that it names and lacks, `special` are further lines of its list, which may name the files
    `made`; `prepare` is its %prep.
    """
    with tempfile.TemporaryDirectory() as scratch:
        top, root = Path(scratch) / "top", Path(scratch) / "files"
        root.mkdir()
        _write(root, {**files, **(made or {})}, None)
        (top / "SOURCES").mkdir(parents=True)
        # Its %prep does not run now; a spec that unpacks a source expects this directory afterwards.
        (top / "BUILD/linux").mkdir(parents=True)
        for source, content in (sources or {}).items():
            (top / "SOURCES" / source).write_bytes(content)
        listed = [f"/{path}" for path in files] + [f"%ghost /{path}" for path in ghosts]
        numbered = "".join(f"Source{number}: {source}\n" for number, source in enumerate(sources or {}))
        spec = (
            "%global debug_package %{nil}\n%global __os_install_post %{nil}\n"
            f"Name: {name}\nVersion: 6.12.40\nRelease: 1\nSummary: a test\nLicense: GPL\n{numbered}"
            f"%description\na test\n%prep\n{prepare}\n"
            f"%install\nmkdir -p %{{buildroot}}\ncp -a {root}/. %{{buildroot}}/\n"
            f"%files\n%defattr(-,root,root)\n{special}\n" + "\n".join(listed) + "\n"
        )
        (Path(scratch) / "kernel.spec").write_text(spec)
        command = [
            "rpmbuild",
            "-ba",
            "--noprep",
            "--nodeps",
            "--quiet",
            "--target",
            "x86_64",
            "--define",
            f"_topdir {top}",
        ]
        command += ["--define", "_binary_payload w2.zstdio", str(Path(scratch) / "kernel.spec")]
        run(command).check("Making an RPM")
        packages = []
        for found in (*top.glob("RPMS/*/*.rpm"), *top.glob("SRPMS/*.rpm")):
            packages.append(directory / found.name)
            packages[-1].write_bytes(found.read_bytes())
    binary, source_rpm = packages
    return binary, source_rpm


def make_pacman(directory: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Make a package of pacman, as makepkg packs it."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _write(root, {".PKGINFO": f"pkgname = {name}\npkgver = 6.12.40-1\n".encode()} | dict(files), None)
        path = directory / f"{name}-6.12.40-1-x86_64.pkg.tar.zst"
        names = sorted(one.name for one in root.iterdir())
        run(["bsdtar", "-c", "-f", path, "--zstd", "-C", root, *names]).check("Making a package")
    return path


def _write(root: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None) -> None:
    root.chmod(0o755)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for name, target in (links or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
