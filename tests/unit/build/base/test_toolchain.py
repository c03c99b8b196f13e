# SPDX-License-Identifier: GPL-2.0-or-later
"""Toolchains on disk: which one a kernel gets, what is made when none fits, what is kept and what is removed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from bare_base import bare_base

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base import toolchain
from elivepatch.build.base.store import Base
from elivepatch.build.base.toolchain import Toolchains
from elivepatch.build.roots.contents import digest_of
from elivepatch.build.roots.declared import Declaration, declarations
from elivepatch.build.roots.description import Draft, Toolchain
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Progress

GCC_12, GCC_14 = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc-14 (Debian 14.2.0-19) 14.2.0"
GCC_16 = "gcc-16 (Debian 16.2.0-4) 16.2.0"
FEDORA = "gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)"


class Suites:
    """A fake archive that has one version of each compiler; gcc-16 is in sid only."""

    def __init__(self, **compilers: str) -> None:
        self.compilers = {name.replace("_", "-"): version for name, version in compilers.items()}
        self.asked: list[str] = []

    def newest(self, name: str, suites: Sequence[str]) -> str | None:
        self.asked.append(name)
        return self.compilers.get(name) if name != "gcc-16" or "sid" in suites else None

    def unreadable_note(self) -> str:
        return " Suites that could not be read: forky (expired)."

    def refresh(self, _progress: Progress) -> None:
        """Do nothing."""

    def sources(self, *_suites: str) -> str:
        return ""


def described(directory: Path, name: str, says: str, **changed: Any) -> Toolchain:
    place = directory / name
    (place / "root/usr/bin").mkdir(parents=True)
    (place / "root/usr/bin/gcc").write_text(f"compiler {name} {changed.get('declared', '')}".strip())
    digest, size = digest_of(place / "root")
    declared = declarations().get(name.partition("@")[0])
    facts: dict[str, Any] = {
        "name": name, "root": place / "root", "digest": digest, "compiler": says.split()[0], "says": says,
        "comment": f"GCC: {says.partition(' ')[2]}", "size_bytes": size, "seconds": 1.0,
        "rust": declared is not None and declared.rust, "declared": declared.digest if declared is not None else "",
    }  # fmt: skip
    made = Toolchain(**(facts | changed))
    (place / "toolchain.json").write_text(json.dumps(made.as_dict()))
    return made


def toolchains(directory: Path, suites: Suites | None = None, **says: str) -> Toolchains:
    for name, text in says.items():
        described(directory, name.replace("_", "-"), text)
    return Toolchains(directory, cast("Archive", suites or Suites()))


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the toolchains that were made; each has the compiler that its suite has."""
    made: list[str] = []

    def make(self: Toolchains, declaration: Declaration, name: str, _progress: Progress) -> Toolchain:
        made.append(name)
        version = cast("Suites", self.archive).compilers.get(declaration.compiler, "14.2.0-19")
        number = f"{declaration.compiler.removeprefix('gcc-')}.2.0"
        return described(self.directory, name, f"{declaration.compiler} (Debian {version}) {number}")

    monkeypatch.setattr(Toolchains, "_make", make)
    return made


def based(directory: Path, made: Toolchain, **changed: Any) -> Base:
    place = directory.parent / "base"
    place.mkdir(exist_ok=True)
    return replace(bare_base(place), toolchain=made.name, toolchain_digest=made.digest, **changed)


def test_a_toolchain_that_was_made_from_another_declaration_is_not_for_new_bases(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_13=GCC_14)
    older = described(tmp_path, "debian-12", GCC_12, declared="0" * 64)
    assert [one.current for one in made.list()] == [False, True]
    with pytest.raises(EnvironmentFault):
        made.for_kernel(GCC_12, rust=False)
    assert made.of(based(tmp_path, older)) == older
    assert made.verify("debian-12")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (GCC_12, "debian-12"),
        (GCC_14, "debian-13"),
        (f"x86_64-linux-gnu-{GCC_14}", "debian-13"),
        (FEDORA, "fedora"),
        (FEDORA.replace("gcc ", "x86_64-redhat-linux-gcc "), "fedora"),
    ],
)
def test_the_toolchain_of_a_kernel_is_the_one_with_exactly_its_compiler(tmp_path: Path, text: str, name: str) -> None:
    found = toolchains(tmp_path, debian_12=GCC_12, debian_13=GCC_14, fedora=FEDORA).for_kernel(text, rust=False)
    assert found.name == name


def test_the_command_is_the_toolchains_own(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_13=GCC_14, fedora=FEDORA)
    assert made.for_kernel(f"x86_64-linux-gnu-{GCC_14}", rust=False).compiler == "gcc-14"
    assert made.for_kernel(FEDORA, rust=False).compiler == "gcc"


@pytest.mark.parametrize("wanted", ["gcc-12 (Debian 12.2.0-14) 12.2.0", "gcc-11 (Debian 11.2.0-19) 11.2.0", FEDORA])
def test_no_match_names_what_is_needed_what_there_is_and_the_way_out(tmp_path: Path, wanted: str) -> None:
    made = toolchains(tmp_path, Suites(gcc_12="12.2.0-14+deb12u1"), debian_12=GCC_12, debian_13=GCC_14)
    with pytest.raises(EnvironmentFault) as caught:
        made.for_kernel(wanted, rust=False)
    problem = caught.value.problem
    assert problem.code == "toolchain-match"
    assert wanted.partition(" ")[2] in problem.message
    assert "debian-12 has (Debian 12.2.0-14+deb12u1) 12.2.0" in problem.message
    assert "forky (expired)" in problem.message
    assert "toolchain add NAME --root" in problem.advice
    assert all(name in problem.advice for name in declarations())


@pytest.mark.parametrize("text", ["", "n", "icc (ICC) 19", "gcc"])
def test_a_configuration_that_names_no_compiler_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(EnvironmentFault, match="not supported"):
        toolchains(tmp_path).for_kernel(text, rust=False)


def test_a_kernel_with_rust_needs_a_toolchain_with_rust(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_13=GCC_14, debian_13_rust=GCC_14)
    assert made.for_kernel(GCC_14, rust=True).name == "debian-13-rust"
    assert made.for_kernel(GCC_14, rust=False).name == "debian-13"


def test_a_root_that_was_brought_serves_whatever_rust_it_has(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_13=GCC_14, fedora=FEDORA)
    described(tmp_path, "with-rust", FEDORA, rust=True)
    assert made.for_kernel(FEDORA, rust=True).name == "with-rust"
    assert made.for_kernel(FEDORA, rust=False).name == "fedora"


def test_a_missing_declared_toolchain_is_made_if_its_suite_has_the_compiler(tmp_path: Path, making: list[str]) -> None:
    suites = Suites(gcc_12="12.2.0-14+deb12u1", gcc_16="16.2.0-4")
    found = toolchains(tmp_path, suites, debian_13=GCC_14).for_kernel(GCC_12, rust=False)
    assert (found.name, making) == ("debian-12", ["debian-12"])
    assert suites.asked == ["gcc-12"], "the archive is asked about the compiler that could fit, no other"


def test_nothing_is_made_for_a_compiler_that_no_suite_has(tmp_path: Path, making: list[str]) -> None:
    made = toolchains(tmp_path, Suites(gcc_12="12.2.0-15"), debian_13=GCC_14)
    for text in (GCC_12, FEDORA):
        with pytest.raises(EnvironmentFault):
            made.for_kernel(text, rust=False)
    assert making == []


def test_the_helper_is_made_for_every_kernel(tmp_path: Path, making: list[str]) -> None:
    toolchains(tmp_path, fedora=FEDORA).for_kernel(FEDORA, rust=False)
    assert making == ["debian-13"]


def test_a_newer_compiler_of_a_suite_lives_beside_the_older_one(tmp_path: Path, making: list[str]) -> None:
    suites = Suites(gcc_16="16.2.0-5")
    made = toolchains(tmp_path, suites, debian_13=GCC_14, debian_sid_rust=GCC_16)
    newer = GCC_16.replace("-4)", "-5)")
    assert made.for_kernel(newer, rust=True).name == "debian-sid-rust@16.2.0-5"
    assert made.for_kernel(GCC_16, rust=True).name == "debian-sid-rust"
    assert made.for_kernel(newer, rust=True).name == "debian-sid-rust@16.2.0-5"
    assert making == ["debian-sid-rust@16.2.0-5"]
    assert [one.name for one in made.list()] == ["debian-13", "debian-sid-rust", "debian-sid-rust@16.2.0-5"]


def test_a_version_that_a_suite_has_no_more_is_told_with_the_one_it_has(tmp_path: Path, making: list[str]) -> None:
    made = toolchains(tmp_path, Suites(gcc_16="16.2.0-5"))
    with pytest.raises(EnvironmentFault) as caught:
        made.add("debian-sid-rust@16.2.0-3")
    assert caught.value.problem.code == "toolchain-version"
    assert "toolchain add debian-sid-rust@16.2.0-5" in caught.value.problem.advice
    assert making == []


def test_a_toolchain_of_an_older_declaration_is_kept_for_its_bases(tmp_path: Path, making: list[str]) -> None:
    made = toolchains(tmp_path, debian_13=GCC_14)
    older = described(tmp_path, "debian-12", GCC_12, declared="0" * 64)
    base = based(tmp_path, older)
    assert made.add("debian-12").declared == declarations()["debian-12"].digest
    kept = made.of(base)
    assert (kept.name, kept.digest) == (f"debian-12@12.2.0-14+deb12u1-{older.digest[:8]}", older.digest)
    assert (kept.root / "usr/bin/gcc").read_text().startswith("compiler debian-12 00")
    assert making == ["debian-12"]


def test_a_description_of_an_older_version_is_understood(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_12=GCC_12)
    place = tmp_path / "debian-12/toolchain.json"
    facts = json.loads(place.read_text())
    for name in ("says", "rust"):
        del facts[name]
    place.write_text(json.dumps(facts))
    found = made.get("debian-12")
    assert (found.says, found.rust, found.version) == (GCC_12, False, "(Debian 12.2.0-14+deb12u1) 12.2.0")


def test_a_base_whose_toolchain_is_another_one_by_now_is_told(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_12=GCC_12)
    base = replace(based(tmp_path, made.get("debian-12")), toolchain_digest=Digest("9" * 64))
    with pytest.raises(EnvironmentFault) as caught:
        made.of(base)
    assert caught.value.problem.code == "toolchain-changed"
    assert f"kernel add {base.release}" in caught.value.problem.advice
    assert not made.restore(base)


def test_a_missing_toolchain_of_a_base_is_made_again(tmp_path: Path, making: list[str]) -> None:
    made = toolchains(tmp_path, debian_13=GCC_14)
    base = based(tmp_path, made.get("debian-13"))
    made.remove("debian-13", [])
    assert made.restore(base)
    assert making == ["debian-13"]


def test_a_base_is_made_again_if_its_compiler_is_in_no_suite_any_more(tmp_path: Path, making: list[str]) -> None:
    made = toolchains(tmp_path, Suites(gcc_16="16.2.0-5"), debian_13=GCC_14)
    gone = replace(made.get("debian-13"), name="debian-sid-rust@16.2.0-3", digest=Digest("9" * 64))
    assert not made.restore(based(tmp_path, gone))
    assert making == []


def test_a_toolchain_that_a_base_needs_is_not_removed(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_12=GCC_12, debian_13=GCC_14)
    base = based(tmp_path, made.get("debian-12"))
    with pytest.raises(UsageError) as caught:
        made.remove("debian-12", [base])
    assert caught.value.problem.code == "toolchain-needed"
    assert base.release in caught.value.problem.message
    assert f"kernel remove {base.release}" in caught.value.problem.advice
    made.remove("debian-13", [base])
    assert [one.name for one in made.list()] == ["debian-12"]


def test_a_toolchain_that_has_changed_is_removed_whoever_needed_it(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_12=GCC_12)
    base = based(tmp_path, made.get("debian-12"))
    (tmp_path / "debian-12/root/usr/bin/gcc").write_text("changed")
    made.remove("debian-12", [base])
    assert made.list() == []


def test_a_damaged_toolchain_harms_no_kernel_of_another(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_12=GCC_12, debian_13=GCC_14)
    (tmp_path / "debian-12/toolchain.json").write_text("{")
    assert made.for_kernel(GCC_14, rust=False).name == "debian-13"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("debian-12", "toolchain-name"),
        ("debian-12@1", "toolchain-name"),
        ("../x", "toolchain-name"),
        ("", "toolchain-name"),
        (".x", "toolchain-name"),
        ("fedora", "toolchain-present"),
    ],
)
def test_a_root_gets_a_name_of_its_own(tmp_path: Path, name: str, code: str) -> None:
    made = toolchains(tmp_path, debian_13=GCC_14, fedora=FEDORA)
    with pytest.raises(UsageError) as caught:
        made.add_root(name, tmp_path, None)
    assert caught.value.problem.code == code


def test_nothing_is_left_of_a_root_that_is_refused(tmp_path: Path) -> None:
    made = toolchains(tmp_path / "toolchains", debian_13=GCC_14)
    with pytest.raises(ElivepatchError):
        made.add_root("mine", tmp_path / "nowhere", None)
    assert sorted(path.name for path in (tmp_path / "toolchains").iterdir()) == [
        ".debian-13.lock", ".mine.lock", "debian-13",
    ]  # fmt: skip


def test_a_toolchain_is_published_with_what_its_compiler_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elivepatch.build.roots.answers import Answers

    monkeypatch.setattr(toolchain, "ask", lambda *_, **__: Answers(says=FEDORA, comment="GCC: (GNU) 14.2.1"))
    made = toolchains(tmp_path, debian_13=GCC_14)
    scratch = tmp_path / ".fedora.new-1"
    (scratch / "root/usr").mkdir(parents=True)
    draft = Draft(name="fedora", compiler="gcc", rust=False, declared="", started=0.0)
    sandbox = made.sandbox(made.helper())
    published = made._finish(draft, scratch, sandbox, lambda _event: None)
    assert published == made.get("fedora")
    assert (published.says, published.comment) == (FEDORA, "GCC: (GNU) 14.2.1")
    assert not scratch.exists()


def test_verifying_notices_a_changed_byte_mode_link_or_name(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_12=GCC_12)
    root = tmp_path / "debian-12/root"
    gcc = root / "usr/bin/gcc"
    assert made.verify("debian-12")
    for spoil, mend in (
        (lambda: gcc.write_text("compilex"), lambda: gcc.write_text("compiler debian-12")),
        (lambda: gcc.chmod(0o755), lambda: gcc.chmod(0o644)),
        (lambda: gcc.rename(root / "usr/bin/cc"), lambda: (root / "usr/bin/cc").rename(gcc)),
        (lambda: (root / "usr/bin/ld").symlink_to("gcc"), (root / "usr/bin/ld").unlink),
        (lambda: os.mkfifo(root / "usr/pipe"), (root / "usr/pipe").unlink),
    ):
        spoil()
        assert not made.verify("debian-12")
        mend()
        assert made.verify("debian-12")


def test_what_every_making_writes_anew_is_no_part_of_the_digest(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_12=GCC_12)
    for name in ("var/log/a", "var/cache/b", "etc/machine-id", "usr/lib/__pycache__/x.pyc", "usr/lib/y.pyc"):
        (tmp_path / "debian-12/root" / name).parent.mkdir(parents=True, exist_ok=True)
    expected = digest_of(tmp_path / "debian-12/root")
    for name in ("var/log/a", "var/cache/b", "etc/machine-id", "usr/lib/__pycache__/x.pyc", "usr/lib/y.pyc"):
        (tmp_path / "debian-12/root" / name).write_text("now")
    assert digest_of(tmp_path / "debian-12/root") == expected
    assert made.get("debian-12").root == tmp_path / "debian-12/root"


def test_an_unknown_toolchain_is_told_with_those_that_can_be_made(tmp_path: Path) -> None:
    made = toolchains(tmp_path)
    for ask in (made.get, made.add, lambda name: made.remove(name, [])):
        with pytest.raises(UsageError) as caught:
            ask("../debian-12")
        assert "debian-13" in caught.value.problem.advice


def test_a_missing_toolchain_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    made = toolchains(tmp_path)
    for ask in (made.get, lambda name: made.remove(name, [])):
        with pytest.raises(EnvironmentFault) as caught:
            ask("debian-12")
        assert "toolchain add debian-12" in caught.value.problem.advice


def test_a_damaged_toolchain_is_told_and_can_be_removed(tmp_path: Path) -> None:
    made = toolchains(tmp_path, debian_12=GCC_12)
    (tmp_path / "debian-12/toolchain.json").write_text("{")
    with pytest.raises(EnvironmentFault) as caught:
        made.get("debian-12")
    assert caught.value.problem.code == "toolchain-damaged"
    made.remove("debian-12", [])
    assert made.list() == []
