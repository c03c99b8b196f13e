# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of CVEs from directories, git repositories and web views, and the findings about unusable ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from git_repository import Repository

from elivepatch import process
from elivepatch.advisory.exposure.affected import assess
from elivepatch.advisory.exposure.version import listed_version, parse_kernel_version
from elivepatch.advisory.fixes.fixes import (
    PATCH_MAX,
    DirectoryFixes,
    Fix,
    Found,
    Wanted,
    WantedCommit,
    dated,
    find_fixes,
    wanted_of,
)
from elivepatch.advisory.fixes.git_repository import FetchedGitFixes, GitFixes
from elivepatch.advisory.fixes.http import HttpFixes
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.record import Findings, Record
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError

NAME = "CVE-2030-20001"
KERNEL = parse_kernel_version("6.1.100")
GIT_COMMANDS = {"cat-file", "rev-parse", "rev-list", "diff-tree", "fetch", "init"}
DIFF = b"--- a/lamp.c\n+++ b/lamp.c\n@@ -1 +1 @@\n-dark\n+light\n"


def wanted(*commits: tuple[str, str], cve: str = NAME) -> Wanted:
    made = []
    for commit, text in commits:
        version = listed_version(text)
        assert version is not None
        made.append(WantedCommit(id=commit, version=version))
    return Wanted(cve=cve, kernel=KERNEL, commits=tuple(made))


def names(fix: Fix | None) -> list[str]:
    assert fix is not None
    return [patch.name for patch in fix.patches]


class TestWhatIsWanted:
    def of(self, dyad: str) -> Wanted:
        read = parse_dyad(dyad)
        assert not isinstance(read, str)
        return wanted_of(assess(Record(id=NAME, title="", introductions=read), KERNEL), KERNEL)

    def test_the_commit_of_the_kernels_own_branch_and_no_other(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.120:{'b' * 40}\n5.4:{'a' * 40}:6.6:{'c' * 40}\n")
        assert [(one.id, str(one.version)) for one in found.commits] == [("b" * 40, "6.1.120")]

    def test_one_for_each_open_introduction_in_the_order_of_their_versions(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.130:{'b' * 40}\n5.8:{'d' * 40}:6.1.120:{'c' * 40}\n")
        assert [one.id[0] for one in found.commits] == ["c", "b"]

    def test_all_of_several_fixes_of_one_introduction(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.130:{'b' * 40}\n5.4:{'a' * 40}:6.1.120:{'c' * 40}\n")
        assert [one.id[0] for one in found.commits] == ["c", "b"]

    def test_those_that_the_kernel_lacks_of_several(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.90:{'b' * 40}\n5.4:{'a' * 40}:6.1.120:{'c' * 40}\n")
        assert [one.id[0] for one in found.commits] == ["c"]

    def test_no_commit_if_only_mainline_has_the_fix_or_no_branch(self) -> None:
        assert self.of(f"5.4:{'a' * 40}:6.6:{'c' * 40}\n").lacking == "no fix in its branch, only in 6.6"
        assert self.of(f"5.4:{'a' * 40}:0:0\n").lacking == "no fix is listed"

    def test_half_a_fix_is_none(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.130:{'b' * 40}\n5.8:{'d' * 40}:6.6:{'c' * 40}\n")
        assert found.commits == ()
        assert found.lacking


class TestDirectory:
    def find(self, directory: Path, findings: Findings | None = None) -> Fix | None:
        return DirectoryFixes(directory).find(wanted(), findings if findings is not None else Findings())

    def test_a_file_of_the_cves_name(self, tmp_path: Path) -> None:
        (tmp_path / f"{NAME}.patch").write_bytes(DIFF)
        (tmp_path / "CVE-2030-200010.patch").write_bytes(DIFF)
        assert names(self.find(tmp_path)) == [f"{NAME}.patch"]

    def test_several_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        for name in (f"{NAME}-2-light.patch", f"{NAME}-1-oil.diff", "README", f"{NAME}.txt"):
            (tmp_path / name).write_bytes(DIFF)
        assert names(self.find(tmp_path)) == [f"{NAME}-1-oil.diff", f"{NAME}-2-light.patch"]

    def test_a_directory_of_the_cves_name(self, tmp_path: Path) -> None:
        (tmp_path / NAME).mkdir()
        for name in ("0002-light.patch", "0001-oil.patch", "notes"):
            (tmp_path / NAME / name).write_bytes(DIFF)
        assert names(self.find(tmp_path)) == ["0001-oil.patch", "0002-light.patch"]

    def test_what_is_not_there_is_no_fix(self, tmp_path: Path) -> None:
        (tmp_path / "CVE-2030-29999.patch").write_bytes(DIFF)
        assert self.find(tmp_path) is None

    @pytest.mark.parametrize("file", ["", "README", "0001-lamp.patch"])
    def test_a_directory_without_any_fix_is_no_answer(self, tmp_path: Path, file: str) -> None:
        if file:
            (tmp_path / file).write_bytes(DIFF)
        with pytest.raises(EnvironmentFault) as caught:
            self.find(tmp_path)
        assert caught.value.problem.code == "fix-source-empty"

    def several(self, tmp_path: Path, *patches: bytes) -> Found:
        for number, patch in enumerate(patches):
            (tmp_path / f"{NAME}-{number}.patch").write_bytes(patch)
        asked = wanted(("b" * 40, "6.1.120"), ("c" * 40, "6.1.130"))
        return find_fixes([DirectoryFixes(tmp_path)], [asked])

    @pytest.mark.parametrize(
        "patches",
        [
            [DIFF],
            [b"commit " + b"b" * 40 + b" upstream.\n" + DIFF],
            [b"# " + b"b" * 12 + b"\n" + DIFF, DIFF],
        ],
        ids=["one", "one that names one commit", "two of which one names a commit"],
    )
    def test_half_of_a_fix_is_told_and_not_taken(self, tmp_path: Path, patches: list[bytes]) -> None:
        found = self.several(tmp_path, *patches)
        assert found.fixes == {}
        assert found.findings.counts == {"half-fix": 1}
        assert "the list names bbbbbbbbbbbb and cccccccccccc" in found.unanswered[NAME]

    @pytest.mark.parametrize(
        "patches", [[DIFF, DIFF], [b"b" * 40 + b" " + b"c" * 12 + b"\n" + DIFF]], ids=["as many", "one that names both"]
    )
    def test_a_whole_fix_is_taken_and_its_commits_noted(self, tmp_path: Path, patches: list[bytes]) -> None:
        assert self.several(tmp_path, *patches).fixes[NAME].commits == ("b" * 40, "c" * 40)

    @pytest.mark.parametrize("kind", ["link", "pipe", "empty", "large", "directory"])
    def test_what_is_no_patch_is_named_and_the_fix_left_out(self, tmp_path: Path, kind: str) -> None:
        file = tmp_path / f"{NAME}.patch"
        makers: dict[str, Callable[[], object]] = {
            "link": lambda: file.symlink_to("/etc/passwd"),
            "pipe": lambda: os.mkfifo(file),
            "empty": lambda: file.write_bytes(b" \n"),
            "large": lambda: file.write_bytes(b"x" * (PATCH_MAX + 1)),
            "directory": lambda: file.mkdir(),
        }
        makers[kind]()
        findings = Findings()
        assert self.find(tmp_path, findings) is None
        assert findings.counts == {"bad-fix": 1}

    def test_its_date_is_the_patchs_own_else_its_files(self, tmp_path: Path) -> None:
        file = tmp_path / f"{NAME}.patch"
        file.write_bytes(b"From x\nDate: Thu, 2 May 2030 12:00:00 +0200\n\n" + DIFF)
        fix = self.find(tmp_path)
        assert fix is not None
        assert fix.dated == datetime(2030, 5, 2, 10, tzinfo=UTC)
        file.write_bytes(DIFF)
        os.utime(file, (0, 86400))
        fix = self.find(tmp_path)
        assert fix is not None
        assert fix.dated == datetime(1970, 1, 2, tzinfo=UTC)

    def test_a_date_that_is_none_is_not_read(self) -> None:
        assert dated(b"Date: the day before yesterday\n") is None
        assert dated(b"Date: Thu, 99 Foo 2030 12:00:00\n") is None
        assert dated(DIFF) is None


@pytest.fixture
def stable(tmp_path: Path) -> tuple[Repository, dict[str, str]]:
    """A repository like the kernel's: a release, an unrelated change, a preparation and the fix it is for."""
    repository = Repository(tmp_path / "stable")
    ids = {"release": repository.commit("Linux 6.1.100", {"lamp.c": "dark\n", "door.c": "open\n"})}
    repository.tag("v6.1.100")
    ids["related"] = repository.commit("lamp: polish it", {"lamp.c": "dark\npolished\n"})
    ids["preparation"] = repository.commit(
        f'lamp: fill it\n\ncommit {"e" * 40} upstream.\n\nStable-dep-of: {"f" * 12} ("lamp: light it")\n',
        {"lamp.c": "dark\npolished\noil\n"},
    )
    ids["other"] = repository.commit("door: shut it", {"door.c": "shut\n"})
    ids["fix"] = repository.commit(
        f"lamp: light it\n\n[ Upstream commit {'f' * 40} ]\n\n--- a/x\n+++ b/x\n", {"lamp.c": "light\npolished\noil\n"}
    )
    return repository, ids


class TestGit:
    def test_the_commits_change_as_a_source_patch_after_what_it_depends_on(
        self, stable: tuple[Repository, dict[str, str]]
    ) -> None:
        repository, ids = stable
        fix = GitFixes(repository.top).find(wanted((ids["fix"], "6.1.120")), Findings())
        assert fix is not None
        assert names(fix) == [f"{ids['preparation'][:12]}.patch", f"{ids['fix'][:12]}.patch"]
        text = fix.patches[1].content.decode()
        assert text.startswith(f"# {ids['fix']} lamp: light it\ndiff --git a/lamp.c b/lamp.c\n")
        assert "\n-dark\n+light\n" in text
        assert "a/x" not in text
        assert fix.dated == datetime(2030, 5, 2, 12, 5, tzinfo=UTC)

    def test_earlier_changes_of_the_same_files_are_hints(self, stable: tuple[Repository, dict[str, str]]) -> None:
        repository, ids = stable
        fix = GitFixes(repository.top).find(wanted((ids["fix"], "6.1.120")), Findings())
        assert fix is not None
        assert fix.hints == (f"{ids['related'][:12]} lamp: polish it",)

    def test_a_mirror_that_is_behind_is_named(self, stable: tuple[Repository, dict[str, str]]) -> None:
        findings = Findings()
        assert GitFixes(stable[0].top).find(wanted(("0" * 40, "6.1.120")), findings) is None
        assert findings.counts == {"mirror-behind": 1}
        assert "it is behind" in findings.named[0].message

    def test_without_the_kernels_tag_only_the_fix_itself_is_given(
        self, stable: tuple[Repository, dict[str, str]]
    ) -> None:
        repository, ids = stable
        repository.git("tag", "--delete", "v6.1.100")
        fix = GitFixes(repository.top).find(wanted((ids["fix"], "6.1.120")), Findings())
        assert len(names(fix)) == 1

    def test_a_merge_and_a_first_commit_are_no_source_patches(self, stable: tuple[Repository, dict[str, str]]) -> None:
        repository, ids = stable
        repository.git("checkout", "--quiet", "-b", "side", ids["release"])
        repository.commit("window: clean it", {"window.c": "clean\n"})
        repository.git("merge", "--quiet", "--no-ff", "-m", "Merge", "main")
        merge = repository.git("rev-parse", "HEAD").strip()
        for commit in (merge, ids["release"]):
            findings = Findings()
            assert GitFixes(repository.top).find(wanted((commit, "6.1.120")), findings) is None
            assert findings.counts == {"bad-fix": 1}

    def test_a_name_that_is_no_commit_is_not_there(self, stable: tuple[Repository, dict[str, str]]) -> None:
        repository, _ = stable
        tree = repository.git("rev-parse", "HEAD^{tree}").strip()
        assert GitFixes(repository.top).find(wanted((tree, "6.1.120")), Findings()) is None

    def test_a_repositorys_configuration_runs_nothing_and_changes_nothing(
        self, stable: tuple[Repository, dict[str, str]], tmp_path: Path
    ) -> None:
        repository, ids = stable
        plain = GitFixes(repository.top).find(wanted((ids["fix"], "6.1.120")), Findings())
        trap = tmp_path / "trap"
        trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexec cat\n")
        trap.chmod(0o755)
        for name in (
            "core.fsmonitor", "core.pager", "core.sshCommand", "core.gitProxy", "diff.external", "gpg.program",
            "diff.lamp.textconv", "diff.lamp.command", "core.alternateRefsCommand", "uploadpack.packObjectsHook",
        ):  # fmt: skip
            repository.git("config", name, str(trap))
        for name, value in (
            ("log.showSignature", "true"),
            ("diff.noprefix", "true"),
            ("diff.mnemonicPrefix", "true"),
            ("diff.context", "0"),
            ("color.ui", "always"),
            ("format.pretty", "%GG"),
        ):
            repository.git("config", name, value)
        (repository.top / ".git/info").mkdir(exist_ok=True)
        (repository.top / ".git/info/attributes").write_text("*.c diff=lamp\n")
        (repository.top / ".git/hooks").mkdir(exist_ok=True)
        for hook in ("post-checkout", "reference-transaction", "post-index-change"):
            (repository.top / f".git/hooks/{hook}").symlink_to(trap)
        trapped = GitFixes(repository.top).find(wanted((ids["fix"], "6.1.120")), Findings())
        assert trapped == plain
        assert not (tmp_path / "sprung").exists()

    def test_what_is_no_repository_is_a_mistake_in_the_policy(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError):
            GitFixes(tmp_path)

    def test_a_fix_that_too_many_commits_prepare_is_left_out_and_not_cut_short(
        self, monkeypatch: pytest.MonkeyPatch, stable: tuple[Repository, dict[str, str]]
    ) -> None:
        repository, ids = stable
        for most, found in ((1, 2), (0, 0)):
            monkeypatch.setattr("elivepatch.advisory.fixes.git_repository._DEPENDENCIES_MAX", most)
            asked = find_fixes([GitFixes(repository.top)], [wanted((ids["fix"], "6.1.120"))])
            assert len(asked.fixes[NAME].patches if NAME in asked.fixes else ()) == found
            assert (NAME in asked.unanswered) == (not found)

    def test_forty_fixes_take_a_few_git_processes(
        self, monkeypatch: pytest.MonkeyPatch, stable: tuple[Repository, dict[str, str]]
    ) -> None:
        repository, ids = stable
        commits = [repository.commit(f"lamp: turn it {number}", {"lamp.c": f"{number}\n"}) for number in range(40)]
        commits[20] = ids["fix"]
        counted = CountedGit(monkeypatch)
        asked = [wanted((name, "6.1.120"), cve=f"CVE-2030-3{number:04}") for number, name in enumerate(commits)]
        found = find_fixes([GitFixes(repository.top)], asked)
        assert len(found.fixes) == 40
        assert len(found.fixes["CVE-2030-30020"].patches) == 2, "what it depends on goes before it"
        assert counted.commands["cat-file"] <= 2
        assert len(list(counted.commands.elements())) <= 8, counted.commands
        assert found.fixes["CVE-2030-30020"].hints, "hints are looked for only when somebody asks"


class CountedGit:
    """Counts the git processes by command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: Counter[str] = Counter()
        original = process.run

        def counted(argv: Sequence[str], **how: Any) -> process.Completed:
            self.commands[next(word for word in argv[4:] if word in GIT_COMMANDS)] += 1
            return original(argv, **how)

        monkeypatch.setattr(process, "run", counted)


class TestFetchedGit:
    def test_many_commits_are_fetched_at_once_and_one_that_is_lacking_costs_no_other(
        self, stable: tuple[Repository, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository, _ = stable
        repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
        commits = [repository.commit(f"lamp: turn it {number}", {"lamp.c": f"{number}\n"}) for number in range(12)]
        counted = CountedGit(monkeypatch)
        asked = [wanted((name, "6.1.120"), cve=f"CVE-2030-3{number:04}") for number, name in enumerate(commits)]
        found = find_fixes([FetchedGitFixes(f"file://{repository.top}", tmp_path / "own.git")], asked)
        assert len(found.fixes) == 12
        assert counted.commands["fetch"] == 1
        lacking = [*asked[:3], wanted(("0" * 39 + "1", "6.1.120"), cve="CVE-2030-39999")]
        found = find_fixes([FetchedGitFixes(f"file://{repository.top}", tmp_path / "other.git")], lacking)
        assert len(found.fixes) == 3
        assert found.findings.counts == {"mirror-behind": 1}

    def test_only_the_wanted_commits_and_their_parents_are_fetched(
        self, stable: tuple[Repository, dict[str, str]], tmp_path: Path
    ) -> None:
        repository, ids = stable
        repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
        source = FetchedGitFixes(f"file://{repository.top}", tmp_path / "cache/own.git")
        fix = source.find(wanted((ids["fix"], "6.1.120")), Findings())
        assert names(fix) == [f"{ids['fix'][:12]}.patch"]
        assert fix is not None
        assert b"\n-dark\n+light\n" in fix.patches[0].content
        # The parent of one is there already, but not its parent: it must be fetched again before it is read.
        fix = source.find(wanted((ids["other"], "6.1.110"), (ids["fix"], "6.1.120")), Findings())
        assert fix is not None
        assert b"\n-open\n+shut\n" in fix.patches[0].content

    def test_a_commit_that_the_url_lacks_is_a_mirror_that_is_behind(
        self, stable: tuple[Repository, dict[str, str]], tmp_path: Path
    ) -> None:
        findings = Findings()
        source = FetchedGitFixes(f"file://{stable[0].top}", tmp_path / "own.git")
        assert source.find(wanted(("0" * 39 + "1", "6.1.120")), findings) is None
        assert findings.counts == {"mirror-behind": 1}

    def test_a_url_that_does_not_answer_is_an_error(self, tmp_path: Path) -> None:
        source = FetchedGitFixes(f"file://{tmp_path}/missing", tmp_path / "own.git")
        with pytest.raises(EnvironmentFault) as caught:
            source.find(wanted(("1" * 40, "6.1.120")), Findings())
        assert caught.value.problem.code == "fix-source"

    @pytest.mark.parametrize(
        "url", ["ext::sh -c true", "--upload-pack=true", "/srv/x.git", "http://x/y.git", "git://x"]
    )
    def test_other_protocols_are_refused(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError):
            FetchedGitFixes(url, tmp_path / "own.git")


Responder = Callable[[httpx2.Request], httpx2.Response]


class TestHttp:
    def find(self, answer: Responder, findings: Findings | None = None) -> Fix | None:
        source = HttpFixes("https://git.example/stable.git/", transport=httpx2.MockTransport(answer))
        return source.find(wanted(("b" * 40, "6.1.120")), findings if findings is not None else Findings())

    def test_the_mail_of_the_commit_is_the_source_patch(self) -> None:
        asked: list[httpx2.Request] = []

        def answer(request: httpx2.Request) -> httpx2.Response:
            asked.append(request)
            mail = f"From {'b' * 40} Mon Sep 17 00:00:00 2001\nDate: Thu, 2 May 2030 12:00:00 +0000\n\n"
            return httpx2.Response(200, content=mail.encode() + DIFF)

        fix = self.find(answer)
        assert fix is not None
        assert fix.patches[0].content.endswith(DIFF)
        assert fix.dated == datetime(2030, 5, 2, 12, tzinfo=UTC)
        assert str(asked[0].url) == f"https://git.example/stable.git/patch/?id={'b' * 40}"

    @pytest.mark.parametrize(
        ("status", "content"),
        [
            (404, b""),
            (200, b"<html>Bad commit"),
            (200, b"From " + b"c" * 40 + b" Mon\n"),
            (200, b"x" * (PATCH_MAX + 1)),
        ],
    )
    def test_another_answer_than_that_commit_is_set_aside(self, status: int, content: bytes) -> None:
        findings = Findings()
        assert self.find(lambda _: httpx2.Response(status, content=content), findings) is None
        assert findings.counts == {"mirror-behind": 1}

    @pytest.mark.parametrize("status", [302, 500, 403])
    def test_a_redirect_is_not_followed_and_an_error_is_one(self, status: int) -> None:
        with pytest.raises(EnvironmentFault):
            self.find(lambda _: httpx2.Response(status, headers={"Location": "https://elsewhere.example/"}))

    @pytest.mark.parametrize(
        "base", ["http://git.example/x", "ftp://git.example/x", "https://user:pass@git.example/x", "x", "https://"]
    )
    def test_a_place_that_is_not_reached_safely_is_refused(self, base: str) -> None:
        with pytest.raises(UsageError):
            HttpFixes(base)

    def test_this_machine_needs_no_tls(self) -> None:
        for base in ("http://127.0.0.1:8000/x", "http://localhost/x", "http://[::1]/x"):
            HttpFixes(base)


class _Source:
    doubt = ""

    def __init__(self, name: str, answers: dict[str, Fix | ElivepatchError]) -> None:
        self.name = name
        self.asked: list[str] = []
        self._answers = answers

    def concerns(self, wanted: Wanted) -> bool:  # noqa: ARG002 - the Protocol's
        return True

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        pass

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:  # noqa: ARG002 - the Protocol's
        self.asked.append(wanted.cve)
        found = self._answers.get(wanted.cve)
        if isinstance(found, ElivepatchError):
            raise found
        return found


def test_the_first_place_that_has_a_fix_gives_it_and_a_broken_one_is_asked_once(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.patch").write_bytes(DIFF)
    (tmp_path / "CVE-2030-20002.patch").write_bytes(DIFF)
    directory = DirectoryFixes(tmp_path)
    other = directory.find(wanted(cve="CVE-2030-20002"), Findings())
    assert other is not None
    broken = _Source("broken", {NAME: EnvironmentFault("fix-source", "It is away.", advice="Wait.")})
    first = _Source("first", {"CVE-2030-20002": other})
    ids = [NAME, "CVE-2030-20002", "CVE-2030-20003"]
    found = find_fixes([broken, first, directory], [wanted(cve=cve) for cve in ids])
    assert broken.asked == [NAME]
    assert found.fixes[NAME].origin == str(tmp_path)
    assert found.fixes["CVE-2030-20002"] == other
    assert found.missing == {}
    assert found.unanswered == {"CVE-2030-20003": "broken did not answer: It is away."}
    assert [one.as_dict()["place"] for one in found.silent] == ["broken"]
    assert found.findings.total == 0


def test_a_cve_has_no_fix_only_if_every_place_answered(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.patch").write_bytes(DIFF)
    (tmp_path / "CVE-2030-20002.patch").write_bytes(b"")
    found = find_fixes([DirectoryFixes(tmp_path)], [wanted(cve=f"CVE-2030-2000{number}") for number in (1, 2, 3)])
    assert list(found.fixes) == [NAME]
    assert list(found.missing) == ["CVE-2030-20003"]
    assert "It is empty." in found.unanswered["CVE-2030-20002"]


def test_fixes_are_ordered_by_the_version_that_has_them_and_unknown_ones_come_last(tmp_path: Path) -> None:
    orders = []
    for number in range(3):
        (tmp_path / f"CVE-2030-3000{number}.patch").write_bytes(DIFF)
    directory = DirectoryFixes(tmp_path)
    for number, version in enumerate(("6.1.120", "6.1.99", None)):
        one = wanted(*([("b" * 40, version)] if version else []), cve=f"CVE-2030-3000{number}")
        fix = directory.find(one, Findings())
        assert fix is not None
        orders.append((fix.order, number))
    assert [number for _, number in sorted(orders)] == [1, 0, 2]
