# SPDX-License-Identifier: GPL-2.0-or-later
"""No silence: a place of fixes, an overlay or a record that gives no answer is named and never status 0."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cve_commands import choices, reasons
from cve_list import CveList
from cve_server import CveServer
from git_repository import Repository
from host_commands import Ran, run, run_json
from simulated_host import SimulatedHost

from elivepatch import process
from elivepatch.client.cve.cache import DIRECTORY, CveCache

pytestmark = pytest.mark.integration

COMMANDS = (("cve", "plan"), ("cve", "close"), ("auto", "--now"), ("auto", "--now", "--plan-only"))
NAME = "CVE-2030-30001"


@dataclass(frozen=True)
class Setting:
    """A host with one open CVE, and what breaks its places of fixes."""

    host: SimulatedHost
    cves: CveList
    top: Path
    patch: pytest.MonkeyPatch

    def places(self, *places: str) -> None:
        text = "".join(f"[[fixes]]\n{place}\n" for place in places)
        self.cves.policy.write_text(f'[records]\nsource = "{self.cves.records}"\n{text}')

    def ask(self, *command: str) -> Ran:
        return run_json(self.host, *command, "--policy", self.cves.policy)


@pytest.fixture
def setting(host: SimulatedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    cves = CveList(tmp_path / "list")
    assert cves.add(1) == NAME
    return Setting(host=host, cves=cves, top=tmp_path, patch=monkeypatch)


class _Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = int(self.path.split("/")[1])
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"lamp\n")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def repository(setting: Setting) -> Repository:
    made = Repository(setting.top / "stable")
    made.commit("Linux 6.1.176", {"lamp.c": "dark\n"})
    made.tag("v6.1.176")
    return made


def git_is_missing(setting: Setting) -> None:
    setting.places(f'git = "{repository(setting).top}"')
    setting.patch.setattr(process, "SEARCH_PATH", str(setting.top / "no-programs"))


def temporary_files_cannot_be_written(setting: Setting) -> None:
    setting.places(f'git = "{repository(setting).top}"')

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    setting.patch.setattr("elivepatch.process.tempfile.TemporaryFile", full)


def repository_is_damaged(setting: Setting) -> None:
    made = repository(setting)
    head = made.git("rev-parse", "HEAD").strip()
    setting.cves.records.joinpath(f"{NAME}.dyad").write_text(f"5.4:{'a' * 40}:6.1.180:{head}\n")
    for file in (made.top / ".git/objects").glob("??/*"):
        file.chmod(0o600)
        file.write_bytes(b"damaged")
    setting.places(f'git = "{made.top}"')


def address_is_unreachable(setting: Setting) -> None:
    setting.places(f'git = "file://{setting.top}/nowhere"')


def commits_cannot_be_kept(setting: Setting) -> None:
    setting.places(f'git = "file://{repository(setting).top}"')
    setting.host.put(f"{DIRECTORY}/git", "a file, not a directory")


def web_refuses_connections(setting: Setting) -> None:
    setting.places('http = "http://127.0.0.1:9"')


def directory_is_missing(setting: Setting) -> None:
    setting.places(f'directory = "{setting.top}/nowhere"')


def directory_is_empty(setting: Setting) -> None:
    (setting.top / "empty").mkdir()
    setting.places(f'directory = "{setting.top}/empty"')


def directory_is_another_projects(setting: Setting) -> None:
    (setting.top / "other").mkdir()
    (setting.top / "other/0001-music.patch").write_text("+music\n")
    setting.places(f'directory = "{setting.top}/other"')


def no_overlay_is_subscribed_to(setting: Setting) -> None:
    setting.places("overlays = true")


SILENT: list[tuple[Callable[[Setting], None], str]] = [
    (git_is_missing, "program-missing"),
    (temporary_files_cannot_be_written, "program-failed"),
    (repository_is_damaged, "program-failed"),
    (address_is_unreachable, "fix-source"),
    (commits_cannot_be_kept, "fix-source"),
    (web_refuses_connections, "fix-source"),
    (directory_is_missing, "fix-source"),
    (directory_is_empty, "fix-source-empty"),
    (directory_is_another_projects, "fix-source-empty"),
    (no_overlay_is_subscribed_to, "overlay-none"),
]


def must_be_told(setting: Setting, code: str, command: tuple[str, ...]) -> None:
    ran = setting.ask(*command)
    assert choices(ran, status=4) == {NAME: "unanswered"}
    assert ran.document["complete"] is False
    assert [one["code"] for one in ran.document["silent"]] == ([code] if code else [])
    assert all(one["place"] and one["message"] and one["advice"] for one in ran.document["silent"])
    assert "[incomplete-answer]" in ran.err
    assert "hint: " in ran.err
    for_people = run(setting.host, *command, "--policy", setting.cves.policy)
    assert for_people.status == 4
    assert "Nothing to do" not in for_people.out
    assert f"[{code}]" in for_people.err or not code
    assert setting.host.loads == 0


@pytest.mark.parametrize(("breaks", "code"), SILENT, ids=[breaks.__name__ for breaks, _ in SILENT])
def test_a_place_of_fixes_that_does_not_answer_is_named_and_no_cve_without_a_fix(
    setting: Setting, breaks: Callable[[Setting], None], code: str
) -> None:
    breaks(setting)
    must_be_told(setting, code, ("cve", "plan"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_that_plans_tells_it(setting: Setting, command: tuple[str, ...]) -> None:
    git_is_missing(setting)
    must_be_told(setting, "program-missing", command)


@pytest.mark.parametrize("status", [302, 403, 500, 503])
def test_a_web_view_that_answers_with_an_error_has_not_answered(setting: Setting, web: str, status: int) -> None:
    setting.places(f'http = "{web}/{status}"')
    must_be_told(setting, "fix-source", ("cve", "plan"))


def test_a_web_view_that_never_answers_is_waited_for_no_longer_than_its_time_limit(setting: Setting) -> None:
    setting.patch.setattr("elivepatch.advisory.fixes.http._TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        setting.places(f'http = "http://127.0.0.1:{listening.getsockname()[1]}"')
        must_be_told(setting, "fix-source", ("cve", "plan"))


@pytest.mark.parametrize("status", [200, 404])
def test_a_web_view_that_lacks_a_listed_commit_leaves_its_cve_unanswered(
    setting: Setting, web: str, status: int
) -> None:
    setting.places(f'http = "{web}/{status}"')
    must_be_told(setting, "", ("cve", "plan"))


def test_a_repository_that_lacks_a_listed_commit_leaves_its_cve_unanswered(setting: Setting) -> None:
    setting.places(f'git = "{repository(setting).top}"')
    must_be_told(setting, "", ("cve", "plan"))
    assert "it is behind, or a repository of something else" in reasons(setting.ask("cve", "plan"))[NAME]


def test_a_repository_that_is_none_ends_the_command(setting: Setting) -> None:
    setting.places(f'git = "{setting.top}"')
    ran = setting.ask("cve", "plan")
    assert (ran.status, ran.code) == (2, "fix-source")


def test_a_fix_that_cannot_be_used_leaves_its_cve_unanswered(setting: Setting) -> None:
    (setting.cves.fixes / f"{NAME}.patch").write_text("")
    must_be_told(setting, "", ("cve", "plan"))


def test_what_other_places_have_is_closed_and_the_silence_told_all_the_same(setting: Setting) -> None:
    other = setting.cves.add(2, "ok")
    setting.places(f'git = "file://{setting.top}/nowhere"', f'directory = "{setting.cves.fixes}"')
    ran = setting.ask("cve", "close")
    assert ran.document["closed_now"] == [other]
    assert choices(ran, status=4) == {NAME: "unanswered", other: "closed"}
    assert len(setting.host.live) == 1


def test_a_cve_whose_fix_is_only_in_another_branch_needs_no_answer_of_a_repository(setting: Setting) -> None:
    (setting.cves.records / f"{NAME}.dyad").write_text(f"5.4:{'a' * 40}:6.6:{'b' * 40}\n")
    git_is_missing(setting)
    assert choices(setting.ask("cve", "plan")) == {NAME: "no-fix"}


def test_if_all_places_have_answered_a_cve_has_no_fix_and_the_status_is_0(setting: Setting) -> None:
    setting.cves.add(2, "ok")
    assert choices(setting.ask("cve", "plan"))[NAME] == "no-fix"


def overlay_of(setting: Setting, text: str) -> Repository:
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", setting.top / "key"]).check("making a key")
    (setting.top / "signers").write_text(f"keeper {(setting.top / 'key.pub').read_text()}")
    config = {"gpg.format": "ssh", "user.signingkey": str(setting.top / "key")}
    made = Repository(setting.top / "overlay", config=config)
    made.commit("Begin", {"overlay.yaml": text, "light.patch": "function fix_1\n+light\n"}, "-S")
    url = f"file://{made.top}"
    assert run(setting.host, "overlay", "add", "lamps", url, "--signers", setting.top / "signers").status == 0
    setting.places("overlays = true")
    return made


HEAD = "overlay: 1\nname: lamps\npatches:\n"
ENTRY = (
    f"  - id: light\n    files: [light.patch]\n    cves: [{NAME}]\n"
    '    kernels: ["6.1.*"]\n    licence: GPL-2.0-only\n    author: A\n'
)


def test_an_overlay_that_was_damaged_is_named(setting: Setting) -> None:
    overlay_of(setting, HEAD + ENTRY)
    assert choices(setting.ask("cve", "plan")) == {NAME: "chosen"}
    kept = CveCache(setting.host.root / DIRECTORY).directory / "overlays/lamps/repository.git"
    for file in [*(kept / "objects").glob("??/*"), *(kept / "objects/pack").glob("*")]:
        file.chmod(0o600)
        file.write_bytes(b"damaged")
    ran = setting.ask("cve", "plan")
    assert choices(ran, status=4) == {NAME: "unanswered"}


def test_an_overlay_with_entries_that_cannot_be_read_may_have_the_fix(setting: Setting) -> None:
    overlay_of(setting, HEAD + "  - id: broken\n")
    ran = setting.ask("cve", "plan")
    assert choices(ran, status=4) == {NAME: "unanswered"}
    assert "It has neither files nor a commit." in reasons(ran)[NAME]


def test_an_overlay_that_cannot_be_fetched_from_is_used_as_it_was_and_named(setting: Setting) -> None:
    overlay = overlay_of(setting, HEAD + ENTRY)
    overlay.top.rename(setting.top / "moved")
    ran = setting.ask("auto", "--now")
    assert (ran.status, ran.document["closed_now"]) == (4, [NAME])
    assert [(one["place"], one["code"]) for one in ran.document["silent"]] == [("overlay lamps", "overlay-fetch")]


@pytest.mark.parametrize("broken", ["json", "dyad"])
def test_a_record_that_cannot_be_read_leaves_its_cve_unanswered(setting: Setting, broken: str) -> None:
    other = setting.cves.add(2, "ok")
    (setting.cves.records / f"{NAME}.{broken}").write_text("garbage")
    assert choices(setting.ask("cve", "plan"), status=4) == {NAME: "unanswered", other: "chosen"}
    setting.cves.write_policy(f'exclude = ["{NAME}"]')
    assert choices(setting.ask("cve", "plan")) == {NAME: "left-out", other: "chosen"}


@pytest.mark.parametrize(
    ("fill", "code"),
    [
        (lambda _: None, "cve-no-records"),
        (lambda top: (top / "README").write_text("music"), "cve-no-records"),
        (lambda top: top.rmdir(), "cve-records"),
        (lambda top: (top.rmdir(), top.write_bytes(b"\xfd7zXZ\0 cut off")), "cve-archive"),
        (lambda top: (top.rmdir(), Repository(top).commit("Music", {"music.c": "la\n"})), "cve-no-records"),
        (lambda top: process.run(["git", "init", "-q", top]), "program-failed"),
    ],
    ids=["empty", "of another project", "missing", "damaged", "a clone of another project", "a clone without a commit"],
)
def test_a_source_of_records_that_has_none_ends_every_command(
    setting: Setting, fill: Callable[[Path], object], code: str
) -> None:
    top = setting.top / "records"
    top.mkdir()
    fill(top)
    for command in (("cve", "plan"), ("cve", "list"), ("cve", "closed", NAME)):
        policy: list[str | Path] = ["--policy", setting.cves.policy] if "plan" in command else []
        given: list[str | Path] = [*command, "--records", top, *policy]
        ran = run_json(setting.host, *given)
        assert (ran.status != 0, ran.code) == (True, code)


def test_records_in_a_clone_without_git_end_the_command(setting: Setting) -> None:
    process.run(["git", "init", "-q", setting.cves.records]).check("git")
    git_is_missing(setting)
    ran = setting.ask("cve", "plan")
    assert (ran.status, ran.code) == (4, "program-missing")


def test_a_server_without_records_is_told_where_the_cached_ones_are_used(
    setting: Setting, server: CveServer, tmp_path: Path
) -> None:
    index = tmp_path / "cve.idx"
    assert run(setting.host, "cve", "index", "--records", setting.cves.records, "-o", index).status == 0
    setting.cves.add(2, "ok")
    setting.cves.policy.write_text(f'[[fixes]]\ndirectory = "{setting.cves.fixes}"\n')
    server.records = index.read_bytes()
    setting.ask("cve", "plan")
    server.records = None
    ran = setting.ask("cve", "plan")
    assert choices(ran) == {NAME: "no-fix"}
    assert "the server keeps no CVE records" in ran.err


def test_a_run_that_could_not_ask_reports_a_failure_to_the_server(setting: Setting, server: CveServer) -> None:
    git_is_missing(setting)
    setting.ask("auto", "--now")
    _, report = server.reports[-1]
    assert (report["result"], report["problem"]) == ("failed", "incomplete-answer")


def test_an_empty_catalogue_of_exploited_cves_ends_the_command(setting: Setting) -> None:
    kev = setting.top / "kev.json"
    kev.write_text(json.dumps({"vulnerabilities": []}))
    given: list[str | Path] = ["--records", setting.cves.records, "--kernel", "6.1.176", "--kev", kev]
    ran = run_json(setting.host, "cve", "list", *given)
    assert (ran.status, ran.code) == (2, "cve-ranking")
