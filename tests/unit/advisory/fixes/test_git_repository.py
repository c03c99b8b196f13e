# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of CVEs from git repositories, kept or fetched, and the findings about unusable ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from git_repository import Repository
from wanted_fix import NAME, names, wanted

from elivepatch import process
from elivepatch.advisory.fixes.fixes import (
    find_fixes,
)
from elivepatch.advisory.fixes.git_repository import FetchedGitFixes, GitFixes
from elivepatch.advisory.records.record import Findings
from elivepatch.model.errors import EnvironmentFault, UsageError

GIT_COMMANDS = {"cat-file", "rev-parse", "rev-list", "diff-tree", "fetch", "init"}


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
