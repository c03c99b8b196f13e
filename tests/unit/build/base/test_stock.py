# SPDX-License-Identifier: GPL-2.0-or-later
"""From a kernel's name to its packages, and from these to a base: what is fetched, and in which order."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from elivepatch.build.archive.apt import Archive, Package, distributions, has_package
from elivepatch.build.archive.featureset import Featureset
from elivepatch.build.base import stock
from elivepatch.build.base.common import BaseContext, BaseDraft
from elivepatch.build.base.stock import StockMaker, StockSource, find_packages, read_packages, resolve
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.model.kernel import parse_release
from elivepatch.process import Cancellation, run


def package(name: str, version: str, depends: str = "", content: bytes = b"") -> Package:
    return Package(
        name=name,
        version=version,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        depends=depends,
    )


class Shelf:
    """A fake archive: its answers, newest version first."""

    def __init__(self, packages: Iterable[Package]) -> None:
        self._packages = list(packages)

    def versions(self, name: str) -> list[Package]:
        return [one for one in self._packages if one.name == name]

    def unreadable_note(self) -> str:
        return " Suites that could not be read: forky (expired)."

    def find(self, name: str, version: str) -> Package:
        for one in self.versions(name):
            if one.version == version:
                return one
        raise EnvironmentFault("package-missing", f"{name} {version}", advice="None.")


def shelf(*packages: Package) -> Archive:
    return cast("Archive", Shelf(packages))


META = shelf(
    package("linux-image-cloud-amd64", "7.2.12-1~bpo13+1", "linux-image-7.2.12+deb13-cloud-amd64 (= 7.2.12-1~bpo13+1)"),
    package("linux-image-cloud-amd64", "6.12.117-1", "linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)"),
    package("linux-image-cloud-amd64", "6.12.107-1", "linux-image-6.12.107+deb13-cloud-amd64 (= 6.12.107-1)"),
    package("linux-image-cloud-amd64", "6.1.176-1", "linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)"),
    package("linux-image-cloud-amd64", "5.10.262-1", "linux-image-5.10.0-46-cloud-amd64 (= 5.10.262-1)"),
    package("linux-image-cloud-amd64", "7.2.13-1", "linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)"),
    package("linux-image-amd64", "6.12.90-2", "linux-image-6.12.90+deb13.1-amd64 (= 6.12.90-2)"),
    package("linux-image-amd64", "6.12.95-1~bpo12+1", "linux-image-6.12.95+deb12-amd64 (= 6.12.95-1~bpo12+1)"),
    package("linux-image-amd64", "6.1.192-3", "linux-image-6.1.0-51-amd64 (= 6.1.192-3)"),
    package("linux-image-6.12-amd64", "6.12.117-1~deb12u1", "linux-image-6.12.117+deb12-amd64 (= 6.12.117-1~deb12u1)"),
    package("linux-image-rt-amd64", "6.1.176-1", "linux-image-6.1.0-50-rt-amd64 (= 6.1.176-1)"),
)


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("debian-11-cloud", "5.10.0-46-cloud-amd64"),
        ("debian-12-cloud", "6.1.0-50-cloud-amd64"),
        ("debian-12", "6.1.0-51-amd64"),
        ("debian-12-rt", "6.1.0-50-rt-amd64"),
        ("debian-12-backports", "6.12.117+deb12-amd64"),
        ("debian-13", "6.12.90+deb13.1-amd64"),
        ("debian-13-cloud", "6.12.117+deb13-cloud-amd64"),
        ("debian-13-backports-cloud", "7.2.12+deb13-cloud-amd64"),
        ("debian-sid-cloud", "7.2.13+deb14-cloud-amd64"),
        ("6.1.0-49-cloud-amd64", "6.1.0-49-cloud-amd64"),
    ],
)
def test_a_name_means_the_newest_stock_kernel_of_its_release(name: str, release: str) -> None:
    assert resolve(name, META) == release


def test_a_name_whose_kernel_no_archive_has_is_told() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        resolve("debian-13", shelf())
    assert caught.value.problem.code == "kernel-not-in-archive"


def test_what_is_neither_name_nor_release_is_refused() -> None:
    with pytest.raises(UsageError):
        resolve("../debian-13", META)


@pytest.mark.parametrize("name", sorted(distributions()))
def test_every_name_has_a_package_a_pattern_and_suites(name: str) -> None:
    assert {"package", "release", "suites"} <= distributions()[name].keys()


def kernel(release: str, version: str, source: str, depends: str = "", common: str = "") -> list[Package]:
    names = [f"linux-image-{release}-dbg", source]
    image, headers = f"linux-image-{release}", f"linux-headers-{release}"
    named = [package(image, version, depends), package(headers, version, common)]
    return [*named, *[package(name, version) for name in names]]


RT = "6.1.0-50-rt-amd64"
COMMON_RT = "linux-headers-6.1.0-50-common-rt (= 6.1.176-1)"
PATCHES = Featureset(name="rt", series=("a.patch",), inputs={"debian/patches-rt/a.patch": "a" * 64})


def test_the_patches_of_a_featureset_are_part_of_what_a_base_is_made_from() -> None:
    found = find_packages(parse_release(RT), shelf(*kernel(RT, "6.1.176-1", "linux-source-6.1", common=COMMON_RT)))
    plain = found.inputs(Featureset())
    assert plain.keys() == {f"{one.name}_6.1.176-1" for one in found.all()}
    assert found.inputs(PATCHES) == plain | {"debian/patches-rt/a.patch": "a" * 64}


@pytest.mark.parametrize(
    ("release", "version", "source"),
    [
        ("6.1.0-50-cloud-amd64", "6.1.176-1", "linux-source-6.1"),
        ("6.12.107+deb13-cloud-amd64", "6.12.107-1", "linux-source-6.12"),
        ("7.2.12+deb13-cloud-amd64", "7.2.12-1~bpo13+1", "linux-source-7.2"),
        ("7.3-amd64", "7.3-1", "linux-source-7.3"),
        ("7.3-rc7-amd64", "7.3~rc7-1~exp1", "linux-source-7.3"),
    ],
)
def test_a_release_has_four_packages_of_one_version(release: str, version: str, source: str) -> None:
    found = find_packages(parse_release(release), shelf(*kernel(release, version, source)))
    assert [one.name for one in found.all()] == [
        f"linux-image-{release}", f"linux-headers-{release}", source, f"linux-image-{release}-dbg",
    ]  # fmt: skip
    assert {one.version for one in found.all()} == {version}


def test_a_split_image_brings_its_parts() -> None:
    release, version = "7.2.12+deb13-cloud-amd64", "7.2.12-1"
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    depends = ", ".join(f"{part} (= {version})" for part in parts) + ", linux-base (>= 4.3), linux-modules-other"
    found = find_packages(
        parse_release(release),
        shelf(*kernel(release, version, "linux-source-7.2", depends), *[package(part, version) for part in parts]),
    )
    assert [one.name for one in found.image] == [f"linux-image-{release}", *parts]


def test_an_unknown_release_is_told_with_the_names_there_are() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        find_packages(parse_release("9.9.9-amd64"), shelf())
    assert caught.value.problem.code == "kernel-not-in-archive"
    assert "9.9.9-amd64" in caught.value.problem.message
    assert "forky (expired)" in caught.value.problem.message
    assert "debian-13" in caught.value.problem.advice


@pytest.mark.parametrize(
    "release", ["7.2.12+deb13-cloud-arm64", "6.1.0-50-686", "6.1.0-50-686-pae", "6.1.0-50-rt-686-pae"]
)
def test_a_kernel_of_another_architecture_is_refused_with_the_reason(release: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        find_packages(parse_release(release), shelf(*kernel(release, "7.2.12-1", "linux-source-7.2")))
    assert caught.value.problem.code == "arch-unsupported"


def test_a_kernel_whose_debug_package_is_gone_is_told() -> None:
    release = "6.1.0-50-cloud-amd64"
    packages = [one for one in kernel(release, "6.1.176-1", "linux-source-6.1") if not one.name.endswith("-dbg")]
    with pytest.raises(EnvironmentFault, match="-dbg"):
        find_packages(parse_release(release), shelf(*packages))


@pytest.mark.parametrize("name", ["", "-o=x", "../x", "a b", "x;id", "a\n", "é"])
def test_a_name_that_is_no_package_is_never_given_to_apt(tmp_path: Path, name: str) -> None:
    assert Archive(tmp_path / "never-made").versions(name) == []
    assert not (tmp_path / "never-made").exists()


@pytest.mark.parametrize("damage", [b"deb!", b"de", b"", b"dexx"])
def test_a_file_that_is_not_what_the_index_names_does_not_match(tmp_path: Path, damage: bytes) -> None:
    wanted = package("p", "1", content=b"deb")
    (tmp_path / "p.deb").write_bytes(b"deb")
    assert has_package(tmp_path / "p.deb", wanted)
    (tmp_path / "p.deb").write_bytes(damage)
    assert not has_package(tmp_path / "p.deb", wanted)


def test_a_file_that_is_not_there_does_not_match(tmp_path: Path) -> None:
    assert not has_package(tmp_path / "p.deb", package("p", "1"))
    assert not has_package(tmp_path, package("p", "1"))


class Interrupted:
    """A base in the making whose operator presses Ctrl-C as soon as the source's turn comes."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def read_debug_package(self, package: Path, cancellation: Cancellation) -> None:
        run(["cat", package], cancellation=cancellation)

    def tree_maker(self) -> NoReturn:
        raise KeyboardInterrupt


def test_an_interruption_does_not_wait_for_the_debug_package(tmp_path: Path) -> None:
    package = tmp_path / "never-comes.deb"
    os.mkfifo(package)
    started = time.monotonic()
    source = StockSource(package=package, version="6.1.176-1", patches=Featureset())
    with pytest.raises(KeyboardInterrupt):
        read_packages(cast("BaseDraft", Interrupted(tmp_path)), package, source)
    assert time.monotonic() - started < 10


def test_the_patches_are_applied_to_the_unpacked_source_before_it_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def unpack(_package: Path, into: Path) -> None:
        (into / "usr/src").mkdir(parents=True)
        (into / "usr/src/linux-source-6.1.tar.xz").touch()

    def apply(tree: Path, _sandbox: object) -> None:
        steps.append(f"apply to {tree.name}")

    monkeypatch.setattr(stock, "_unpack", unpack)
    monkeypatch.setattr(stock, "unpack_source", lambda *_: steps.append("unpack"))
    maker = SimpleNamespace(
        tree=tmp_path / "tree",
        sandbox=None,
        configure=lambda *_, **given: steps.append(f"configure {given['package_version']}"),
        prepare=lambda: ["listed"],
    )
    context = SimpleNamespace(report=lambda *_: None)
    draft = SimpleNamespace(scratch=tmp_path, tree_maker=lambda: maker, context=context, release=RT, content=b"")
    patches = cast("Featureset", SimpleNamespace(apply=apply))
    source = StockSource(package=tmp_path, version="6.1.176-1", patches=patches)
    assert stock._tree_part(cast("BaseDraft", draft), source) == ["listed"]
    assert steps == ["unpack", "apply to tree", "configure 6.1.176-1"]


class Counter:
    """A shelf whose packages are taken one by one, and one of which may be gone."""

    def __init__(self, packages: Iterable[Package], gone: str = "") -> None:
        shelf, self._gone = Shelf(packages), gone
        self.taken: list[str] = []
        self.told: list[object] = []
        self.refresh = self.told.append
        self.versions, self.find, self.unreadable_note = shelf.versions, shelf.find, shelf.unreadable_note

    def download(self, packages: list[Package], _progress: object) -> list[Path]:
        for one in packages:
            if one.name == self._gone:
                raise EnvironmentFault("package-gone", f"the archive lost {one.name}.", advice="None.")
            self.taken.append(one.name)
        return [Path(one.name) for one in packages]

    def kernels_like(self, _release: str) -> list[str]:
        return ["6.1.0-49-cloud-amd64"]


class Place:
    """A context in which the toolchain is found or not."""

    progress = staticmethod(print)

    def __init__(self, directory: Path, fault: EnvironmentFault | None = None) -> None:
        self.bases = SimpleNamespace(directory=directory)
        self._directory, self._fault = directory, fault

    def report(self, *_: object) -> None:
        """Do nothing."""

    def begin(self, *_: object) -> SimpleNamespace:
        if self._fault is not None:
            raise self._fault
        return SimpleNamespace(tree_maker=lambda: SimpleNamespace(sandbox=None))

    def publish(self, _release: str, make: Callable[[Path], object]) -> object:
        return make(self._directory)


def added(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    gone: str = "",
    fault: EnvironmentFault | None = None,
    release: str = "6.1.0-50-cloud-amd64",
) -> tuple[str, str, list[str]]:
    """Add a kernel whose image has `config`; return the code and the advice of the refusal, and what was downloaded."""
    archive = Counter(kernel(release, "6.1.176-1", "linux-source-6.1", common=COMMON_RT if release == RT else ""), gone)

    def unpack(_package: Path, into: Path) -> None:
        (into / "boot").mkdir(parents=True, exist_ok=True)
        (into / f"boot/config-{release}").write_text(config)

    monkeypatch.setattr(stock, "_unpack", unpack)
    maker = StockMaker(cast("Archive", archive), cast("BaseContext", Place(tmp_path, fault)))
    with pytest.raises(ElivepatchError) as caught:
        maker.add(release)
    return caught.value.problem.code, caught.value.problem.advice, archive.taken


GOOD = "CONFIG_X86_64=y\nCONFIG_LIVEPATCH=y\nCONFIG_MODULES=y\nCONFIG_KALLSYMS_ALL=y\n"
IMAGE = "linux-image-6.1.0-50-cloud-amd64"


def test_a_kernel_without_livepatches_is_refused_before_its_debug_package_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, taken = added(tmp_path, monkeypatch, GOOD.replace("LIVEPATCH=y", "LIVEPATCH=n"))
    assert (code, taken) == ("config-livepatch", [IMAGE])


def test_a_kernel_whose_compiler_is_nowhere_is_refused_before_its_debug_package_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = EnvironmentFault("toolchain-match", "No toolchain.", advice="Bring it.")
    assert added(tmp_path, monkeypatch, GOOD, fault=fault) == ("toolchain-match", "Bring it.", [IMAGE])


def test_a_lost_debug_package_is_told_before_anything_else_is_fetched_with_kernels_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, advice, taken = added(tmp_path, monkeypatch, GOOD, gone=f"{IMAGE}-dbg")
    assert (code, taken) == ("package-gone", [IMAGE])
    assert "6.1.0-49-cloud-amd64" in advice


def test_a_real_time_kernel_whose_patches_are_gone_is_refused_before_its_debug_package_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def gone(name: str, _archive: object, source: Package, *_: object) -> NoReturn:
        asked.append((name, source.name))
        raise EnvironmentFault("package-gone", "the archive lost the source of linux.", advice="None.")

    monkeypatch.setattr(stock, "fetch_featureset", gone)
    code, advice, taken = added(tmp_path, monkeypatch, GOOD, release=RT)
    assert (code, taken) == ("package-gone", [f"linux-image-{RT}"])
    assert "another kernel" in advice
    assert "a mirror that has the file" in advice
    assert asked == [("rt", "linux-source-6.1")]


def test_no_source_package_is_fetched_for_a_kernel_without_a_featureset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(stock, "fetch_featureset", never)
    code, _, taken = added(tmp_path, monkeypatch, GOOD, gone="linux-source-6.1")
    assert (code, taken[-1]) == ("package-gone", "linux-headers-6.1.0-50-cloud-amd64")


def test_the_fetch_of_the_indexes_is_shown(tmp_path: Path) -> None:
    archive, place = Counter([]), Place(tmp_path)
    with pytest.raises(EnvironmentFault):
        StockMaker(cast("Archive", archive), cast("BaseContext", place)).add("debian-13-cloud")
    assert archive.told == [place.progress]


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_place: Path, needed: int, _work: str) -> None:
        raise EnvironmentFault("disk-room", f"{needed}", advice="Make room.")

    monkeypatch.setattr(stock, "require_room", full)
    assert added(tmp_path, monkeypatch, GOOD) == ("disk-room", "Make room.", [])


class Kept(Counter):
    """A shelf whose files are dropped."""

    def __init__(self, packages: Iterable[Package]) -> None:
        super().__init__(packages)
        self.dropped: list[str] = []
        self.swept = 0

    def drop(self, packages: Iterable[Package]) -> None:
        self.dropped += [one.name for one in packages]

    def sweep(self) -> None:
        self.swept += 1


@pytest.mark.parametrize("made", ["made", "there", "failed"])
def test_the_packages_of_a_finished_base_are_dropped_but_for_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    """Another flavour needs the source. After a failure, the next attempt finds them."""
    release = "6.1.0-50-cloud-amd64"
    archive = Kept(kernel(release, "6.1.176-1", "linux-source-6.1"))
    place = Place(tmp_path)
    if made == "there":
        monkeypatch.setattr(place, "publish", lambda *_: "the base")
    outcome = EnvironmentFault("config-gate", "Another.", advice="None.") if made == "failed" else None

    def make(_maker: StockMaker, _packages: object, _scratch: Path) -> str:
        if outcome is not None:
            raise outcome
        return "the base"

    monkeypatch.setattr(StockMaker, "_make", make)
    with suppress(EnvironmentFault):
        StockMaker(cast("Archive", archive), cast("BaseContext", place)).add(release)
    dropped = [IMAGE, f"linux-headers-{release}", f"{IMAGE}-dbg"]
    assert (archive.dropped, archive.swept) == ((dropped, 1) if made == "made" else ([], 0))
