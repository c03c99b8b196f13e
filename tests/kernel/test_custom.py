# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of one's own: a source, a configuration and local patches become a base that livepatches are built on."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edits import Edit, patch_of, series_of
from pushing_host import base_of_pushed, describe_kernel, put

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.kept.files import KeptBuild
from elivepatch.build.sample.fidelity import prove_base
from elivepatch.build.sandbox.bubblewrap import BUILD_UID
from elivepatch.client.host.machine import Host
from elivepatch.client.push.kernel_files import PushOptions, find_kernel_files
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.model.kernel import BuildId, parse_release
from elivepatch.model.trial import Expectation
from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial
from small_kernels import small_kernel

pytestmark = pytest.mark.kernel

BOOKWORM = "6.1.0-50-cloud-amd64"
CMDLINE, LOADAVG = "fs/proc/cmdline.c", "fs/proc/loadavg.c"
BASE_PATCH = Path(__file__).with_name("data") / "cmdline-base.patch"
"""The operator's own patch, which is in the kernel: /proc/cmdline begins with a word of it."""

FIRST = Edit(CMDLINE, '"local: "', '"local, patched live: "')
SECOND = Edit(
    LOADAVG, '"%lu.%02lu %lu.%02lu %lu.%02lu %u/%d %d\\n"', '"load %lu.%02lu %lu.%02lu %lu.%02lu %u/%d %d\\n"'
)


@pytest.fixture(scope="module")
def own(backend: LocalBackend) -> Base:
    """A small 6.12 with a patch of its operator's."""
    return small_kernel(backend, "6.12", BASE_PATCH, suffix="-own")


def livepatch(
    backend: LocalBackend, base: Base, work_dir: Path, *edits: Edit, name: str, replaces: bool = True
) -> Path:
    work_dir.mkdir()
    builder = ObjectsBuilder(base=base, toolchains=backend.toolchains, jobs=2)
    outcome = builder.build(
        series_of(patch_of(base.tree, *edits)), name=name, work_dir=work_dir, atomic_replace=replaces
    )
    assert outcome.problem is None, outcome.problem
    assert outcome.module is not None
    return outcome.module


def test_a_base_is_the_kernel_that_was_built(own: Base) -> None:
    assert own.kind == "custom"
    assert ElfFile(own.directory / "vmlinux").build_id == own.build_id == own.identity.build_id
    assert own.packages.keys() >= {"base patch cmdline-base.patch"}
    assert any(name.startswith("linux-source-6.12_") for name in own.packages)
    assert {"loop", "minix"} <= own.module_files.keys()
    assert own.units.by_source[CMDLINE].parents == ("vmlinux",)
    assert own.units.by_source["fs/minix/inode.c"].parents == ("minix",)
    assert own.size_bytes < 4 << 30
    assert not list(own.tree.rglob("vmlinux.o")), "what was built is not kept"


def test_a_build_in_the_tree_may_write_each_of_its_files(own: Base) -> None:
    """kpatch-build and klp-build build the whole kernel there, as the user of the sandbox."""
    owners = {path.lstat().st_uid for path in own.tree.iterdir()}
    assert owners == {BUILD_UID}


def test_what_its_source_package_has_closed_is_closed_in_it_too(backend: LocalBackend, own: Base) -> None:
    sources = backend.sources(own.release)
    assert sources.package_version == ""
    assert sources.changelog is not None
    assert f"linux-source-6.12_{sources.changelog.version}" in own.packages
    assert sources.changelog.closed


def test_a_base_patch_then_a_livepatch_on_it_then_a_second_are_all_live_at_once(
    backend: LocalBackend, own: Base, reachable_path: Path, tmp_path: Path, settings: ServerSettings
) -> None:
    first = livepatch(backend, own, reachable_path / "1", FIRST, name="livepatch_first", replaces=False)
    second = livepatch(backend, own, reachable_path / "2", SECOND, name="livepatch_second", replaces=False)
    # The first one is loaded before the case like a module that the second one needs.
    modules = tmp_path / "modules"
    shutil.copytree(own.directory / "modules", modules)
    shutil.copyfile(first, modules / "livepatch_first.ko")
    report = run_trial(
        kernel=replace(guest_kernel(own), modules_dir=modules),
        livepatch=second,
        livepatch_name="livepatch_second",
        parents=["livepatch_first"],
        expectations=[
            Expectation(
                command="sleep 3; cat /proc/cmdline /proc/loadavg; cat /sys/kernel/livepatch/*/enabled",
                pattern=r"^local, patched live: .*\nload \d.*\n1\n1$",
            )
        ],
        work_dir=tmp_path / "work",
        cache_dir=settings.cache_dir,
    )
    assert report.problems == (), report.problems
    (seen,) = report.observations
    assert seen.before.startswith("local, patched live: "), "the first one is there alone"


def test_a_cumulative_livepatch_carries_both(
    backend: LocalBackend, own: Base, reachable_path: Path, tmp_path: Path, settings: ServerSettings
) -> None:
    module = livepatch(backend, own, reachable_path / "1", FIRST, SECOND, name="livepatch_both")
    report = run_trial(
        kernel=guest_kernel(own),
        livepatch=module,
        livepatch_name="livepatch_both",
        parents=[],
        expectations=[Expectation(command="cat /proc/cmdline /proc/loadavg", pattern=r"^local, patched .*\nload \d")],
        work_dir=tmp_path / "work",
        cache_dir=settings.cache_dir,
    )
    assert report.problems == (), report.problems
    assert report.observations[0].before.startswith("local: "), "the base patch is in the kernel itself"


@pytest.fixture(scope="module")
def kept(archive: Archive, base_6_1: Base, shared_path: Path) -> KeptBuild:
    """Return the files kept of a build of Debian's own kernel."""
    dbg = f"linux-image-{BOOKWORM}-dbg"
    (package,) = archive.download([archive.find(dbg, base_6_1.version)])
    run(["dpkg-deb", "-x", package, shared_path / "dbg"]).check("Unpacking the debug package")
    debug = shared_path / "dbg/usr/lib/debug"
    return KeptBuild(
        vmlinux=debug / f"boot/vmlinux-{BOOKWORM}",
        vmlinuz=base_6_1.directory / "vmlinuz",
        symvers=base_6_1.tree / "Module.symvers",
        modules=debug / f"lib/modules/{BOOKWORM}",
    )


@pytest.fixture(scope="module")
def pushing(archive: Archive, base_6_1: Base, kept: KeptBuild, shared_path: Path) -> Host:
    """Return a host that has the files of the build, and its source, where a person who built it has them."""
    root = shared_path / "host"
    host = describe_kernel(root, base_6_1.release, base_6_1.build_id)
    put(root, f"boot/config-{BOOKWORM}", _shipped_config(archive, base_6_1, shared_path))
    put(root, f"boot/vmlinuz-{BOOKWORM}", kept.vmlinuz.read_bytes())
    put(root, f"usr/src/linux-headers-{BOOKWORM}/Module.symvers", kept.symvers.read_bytes())
    assert kept.modules is not None
    (root / "lib/modules").mkdir(parents=True)
    (root / "usr/lib/debug/boot").mkdir(parents=True)
    (root / "lib/modules" / BOOKWORM).symlink_to(kept.modules)
    (root / "usr/lib/debug/boot" / kept.vmlinux.name).symlink_to(kept.vmlinux)
    (package,) = archive.download([archive.find("linux-source-6.1", base_6_1.version)])
    run(["dpkg-deb", "-x", package, shared_path / "source"]).check("Unpacking the source package")
    (packed,) = (shared_path / "source").glob("usr/src/*.tar.xz")
    (root / "usr/src/linux").mkdir()
    run(["tar", "-x", "-f", packed, "--strip-components=1", "-C", root / "usr/src/linux"]).check("Unpacking the source")
    return host


def split(kept: KeptBuild, place: Path) -> KeptBuild:
    """Return the files as other distributions ship them: code and debug information apart, some modules compressed."""
    assert kept.modules is not None
    debug, modules = place / "split/debug", place / "split/modules"
    debug.mkdir(parents=True)
    shutil.copytree(kept.modules, modules, symlinks=True)
    apart = [(kept.vmlinux, place / "split/vmlinux", debug / f"vmlinux-{BOOKWORM}.debug")]
    names = ("net/8021q/8021q.ko", "net/802/garp.ko", "net/802/mrp.ko", "net/802/stp.ko")
    for name in names:
        stripped = modules / "kernel" / name
        apart.append((kept.modules / "kernel" / name, stripped, debug / f"{stripped.name}.debug"))
    for whole, stripped, information in apart:
        stripped.unlink(missing_ok=True)
        run(["objcopy", "--only-keep-debug", whole, information]).check("Making a debug file")
        how = "--strip-all" if whole == kept.vmlinux else "--strip-debug"
        run(["strip", how, "-o", stripped, whole]).check("Stripping")
    for program, name in zip(("zstd", "xz", "gzip"), names, strict=False):
        run([program, "-q", modules / "kernel" / name]).check("Compressing a module")
        (modules / "kernel" / name).unlink(missing_ok=True)
    return replace(kept, vmlinux=place / "split/vmlinux", modules=modules, debug=debug)


def require_the_same(backend: LocalBackend, made: Base, stock: Base, place: Path) -> None:
    """Require that a custom base of a stock kernel is that of its packages, and makes the same livepatch."""
    place.mkdir()
    assert (made.kind, made.build_id, made.claimed_build_id) == ("custom", stock.build_id, None)
    assert made.struct_sizes == stock.struct_sizes
    assert made.units == stock.units
    assert made.fidelity["identical"] == made.fidelity["functions"] >= 200
    assert made.module_files.keys() == stock.module_files.keys()
    vlan = Edit("net/8021q/vlanproc.c", '"VLAN Dev name	 | VLAN ID\\n"', '"VLAN device	 | VLAN id\\n"')
    meminfo = Edit("fs/proc/meminfo.c", '"VmallocChunk:   "', '"VMALLOCCHUNK:   "')
    ours = livepatch(backend, made, place / "ours", vlan, meminfo, name="livepatch_same")
    theirs = livepatch(backend, stock, place / "theirs", vlan, meminfo, name="livepatch_same")
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.extended
def test_stripped_files_with_debug_files_give_the_same_livepatches_as_the_packages(
    backend: LocalBackend, base_6_1: Base, kept: KeptBuild, shared_path: Path, archive: Archive
) -> None:
    """vmlinux and some modules are stripped and have their debug files apart, as in RPM packages."""
    config = shared_path / "split-config"
    config.write_bytes(_shipped_config(archive, base_6_1, shared_path))
    bases = Bases(shared_path / "split-bases")
    bases.directory.mkdir()
    kernel = CustomKernel(
        release=base_6_1.release,
        source=f"linux-source-6.1={base_6_1.version}",
        config=config,
        kept=split(kept, shared_path),
        build_id=base_6_1.build_id,
    )
    made = maker(backend, bases).add(kernel)
    require_the_same(backend, made, base_6_1, shared_path / "of-split-files")


@pytest.mark.extended
def test_what_a_host_pushes_of_its_build_gives_the_same_livepatches_as_the_packages(
    backend: LocalBackend, base_6_1: Base, pushing: Host, shared_path: Path
) -> None:
    files = find_kernel_files(pushing, PushOptions(source=pushing.path("usr/src/linux")))
    bases = shared_path / "bases"
    bases.mkdir()
    made = base_of_pushed(files, maker(backend, Bases(bases)), shared_path)
    require_the_same(backend, made, base_6_1, shared_path / "of-a-host")


def _shipped_config(archive: Archive, base: Base, place: Path) -> bytes:
    (package,) = archive.download([archive.find(f"linux-image-{base.release}", base.version)])
    run(["dpkg-deb", "-x", package, place / "image"]).check("Unpacking the image package")
    return (place / f"image/boot/config-{base.release}").read_bytes()


@pytest.fixture
def stripped(own: Base) -> KeptBuild:
    """Return the files kept of a build, without debug information."""
    return KeptBuild(
        vmlinux=own.directory / "vmlinux",
        vmlinuz=own.directory / "vmlinuz",
        symvers=own.tree / "Module.symvers",
        modules=own.directory / "modules",
    )


def described(own: Base, **changed: Any) -> CustomKernel:
    source = next(name for name in own.packages if name.startswith("linux-source")).replace("_", "=")
    config = own.directory / "config"
    return replace(
        CustomKernel(release=own.release, source=source, config=config, base_patches=(BASE_PATCH,)), **changed
    )


def maker(backend: LocalBackend, bases: Bases) -> CustomMaker:
    return CustomMaker(backend.archive, BaseContext(backend.toolchains, bases, 2, prove_base))


def refusal(backend: LocalBackend, kernel: CustomKernel, bases: Bases) -> str:
    with pytest.raises(ElivepatchError) as caught:
        maker(backend, bases).add(kernel)
    assert bases.list() == [], "nothing half-made is left"
    return caught.value.problem.code


def test_a_kernel_that_is_there_is_not_built_again(backend: LocalBackend, own: Base) -> None:
    assert maker(backend, backend.bases).add(described(own)) == own


def test_another_kernel_of_the_same_release_is_refused(backend: LocalBackend, own: Base) -> None:
    with pytest.raises(UsageError) as caught:
        maker(backend, backend.bases).add(described(own, base_patches=()))
    assert caught.value.problem.code == "kernel-present"


def test_a_host_of_another_build_id_must_be_accepted_and_is_then_told(
    backend: LocalBackend, own: Base, shared_path: Path
) -> None:
    bases = Bases(shared_path / "claimed")
    # Its description names the kernel that it is bound to.
    (bases.directory / own.release).mkdir(parents=True)
    shutil.copyfile(own.directory / "base.json", bases.directory / own.release / "base.json")
    claimed = BuildId("ab" * 20)
    with pytest.raises(EnvironmentFault) as caught:
        maker(backend, bases).add(described(own, build_id=claimed))
    assert caught.value.problem.code == "unproved"
    assert own.build_id in caught.value.problem.message
    bound = maker(backend, bases).add(described(own, build_id=claimed, accept_unproved=True))
    assert (bound.identity.build_id, bound.build_id) == (claimed, own.build_id)
    assert bound.digest != own.digest
    assert bases.get(own.release) == bound
    again = maker(backend, bases).add(described(own, build_id=own.build_id))
    assert again.claimed_build_id is None


def test_what_was_kept_of_a_build_must_have_debug_information(
    backend: LocalBackend, own: Base, stripped: KeptBuild, reachable_path: Path
) -> None:
    assert refusal(backend, described(own, kept=stripped), Bases(reachable_path)) == "debug-info"


def test_a_debug_file_of_another_module_is_refused_by_name(
    backend: LocalBackend, base_6_1: Base, kept: KeptBuild, reachable_path: Path, archive: Archive
) -> None:
    config = reachable_path / "config"
    config.write_bytes(_shipped_config(archive, base_6_1, reachable_path))
    (reachable_path / "modules").mkdir()
    (reachable_path / "debug").mkdir()
    assert kept.modules is not None
    mine, other = (kept.modules / "kernel" / name for name in ("net/8021q/8021q.ko", "net/802/mrp.ko"))
    run(["strip", "--strip-debug", "-o", reachable_path / "modules/8021q.ko", mine]).check("Stripping a module")
    debug = reachable_path / "debug/8021q.ko.debug"
    run(["objcopy", "--only-keep-debug", other, debug]).check("Making a debug file")
    files = replace(kept, modules=reachable_path / "modules", debug=reachable_path / "debug")
    kernel = CustomKernel(release=base_6_1.release, source="linux-source-6.1", config=config, kept=files)
    assert refusal(backend, kernel, Bases(reachable_path / "bases")) == "debug-file"


def test_each_module_that_was_kept_must_have_debug_information(
    backend: LocalBackend, base_6_1: Base, kept: KeptBuild, reachable_path: Path, archive: Archive
) -> None:
    """Without it, the sources of the module would count as not built, and no patch of them would be needed."""
    config = reachable_path / "config"
    config.write_bytes(_shipped_config(archive, base_6_1, reachable_path))
    modules = reachable_path / "modules"
    modules.mkdir()
    assert kept.modules is not None
    for name in ("net/8021q/8021q.ko", "net/802/mrp.ko"):
        shutil.copyfile(kept.modules / "kernel" / name, modules / Path(name).name)
    run(["strip", "--strip-debug", str(modules / "mrp.ko")]).check("Stripping a module")
    kernel = CustomKernel(
        release=base_6_1.release, source="linux-source-6.1", config=config, kept=replace(kept, modules=modules)
    )
    bases = Bases(reachable_path / "bases")
    with pytest.raises(EnvironmentFault) as caught:
        maker(backend, bases).add(kernel)
    assert "1 of 2 modules have no debug information" in caught.value.problem.message
    assert "mrp" in caught.value.problem.message
    assert bases.list() == []


def tiny_source(own: Base, place: Path) -> Path:
    """An archive with as much of a kernel's source as is looked at before anything is prepared."""
    packed = place / "tiny.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(own.tree / "Makefile", "tiny/Makefile")
        text = (own.tree / CMDLINE).read_text().replace('\tseq_puts(m, "local: ");\n', "").encode()
        member = tarfile.TarInfo(f"tiny/{CMDLINE}")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return packed


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("a source that is not there", "source-unknown"),
        ("a base patch that does not apply", "base-patch"),
        ("a source of another version", "release-mismatch"),
        ("a configuration that is shell code", "config-line"),
        ("a configuration without livepatches", "config-livepatch"),
        ("a compiler that no toolchain has", "toolchain-match"),
        ("a file that is not there", "file-missing"),
    ],
)
def test_a_kernel_that_cannot_be_made_is_told_and_leaves_nothing(
    backend: LocalBackend, own: Base, reachable_path: Path, tmp_path: Path, what: str, code: str
) -> None:
    text = (own.directory / "config").read_text()
    wrong = tmp_path / "wrong"
    changed: dict[str, object] = {"source": str(tiny_source(own, tmp_path))}
    match what:
        case "a source that is not there":
            changed["source"] = "/nonexistent/linux"
        case "a base patch that does not apply":
            changed["base_patches"] = (BASE_PATCH, BASE_PATCH)
        case "a source of another version":
            changed["release"] = parse_release("6.11.1-own")
        case "a configuration that is shell code":
            wrong.write_text(text + "touch /tmp/owned\n")
            changed["config"] = wrong
        case "a configuration without livepatches":
            wrong.write_text(text.replace("CONFIG_LIVEPATCH=y", "# CONFIG_LIVEPATCH is not set"))
            changed["config"] = wrong
        case "a compiler that no toolchain has":
            wrong.write_text(re.sub(r'CC_VERSION_TEXT=".*"', 'CC_VERSION_TEXT="gcc (GCC) 9.9.9"', text))
            changed["config"] = wrong
        case _:
            changed["config"] = tmp_path / "absent"
    bases = Bases(reachable_path)
    assert refusal(backend, described(own, **changed), bases) == code
    assert [path.name for path in bases.directory.iterdir() if not path.name.endswith(".lock")] == []
