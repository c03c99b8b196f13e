# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch build`, `check` and `kernels`: exit statuses, files and what is printed where."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from job_server import BUILD, FAILED, JOB, KERNEL, PROBLEM, SUCCESS, Run, Server


def test_a_build_saves_module_log_console_and_report(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(SUCCESS)
    assert run(server, *BUILD, "--expect", "/proc/meminfo =~ VMALLOC") == 0
    assert server.body() == {
        "kernel": KERNEL,
        "patches": [{"name": "fix.patch", "content": base64.b64encode(b"--- a/x\n+++ b/x\n").decode()}],
        "expectations": [{"command": "/proc/meminfo", "pattern": "VMALLOC"}],
        "trial": True,
        "thorough": False,
        "check_only": False,
        "replace": True,
        "builder": "objects",
        "paranoid": False,
        "copy": 0,
        "rewrite": False,
        "base_patches": [],
    }
    saved = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name != "fix.patch"}
    assert json.loads(saved.pop("livepatch_meminfo.report.json")) == SUCCESS
    assert saved == {
        "livepatch_meminfo.ko": b"MODULE",
        "livepatch_meminfo.ko.intoto.jsonl": b"PROOF",
        "livepatch_meminfo.log": b"LOG",
        "livepatch_meminfo.console.log": b"CONSOLE",
    }
    printed = capsys.readouterr().out
    for words in ("livepatch_meminfo", "vmlinux:meminfo_proc_show", "g is inlined. [inlined]", "trial passed"):
        assert words in printed


def test_fresh_requests_a_build_although_there_is_an_answer(run: Run) -> None:
    server = Server(SUCCESS)
    assert run(server, *BUILD) == 0
    assert "fresh" not in server.body()
    server.asked.clear()
    assert run(server, *BUILD, "--fresh") == 0
    assert server.body()["fresh"] is True
    assert run(server, "build", "--follow", JOB, "--fresh") == 2


def test_a_job_is_ended(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(SUCCESS)
    assert run(server, "cancel", JOB) == 0
    assert [(one.method, one.url.path) for one in server.asked] == [("DELETE", f"/v1/builds/{JOB}")]
    assert "is done" in capsys.readouterr().out
    assert run(server, "cancel", "../tokens") == 2


def test_files_go_to_the_place_of_output(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run(Server(SUCCESS), *BUILD, "-o", "out/fix.v2.ko") == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "fix.v2.ko", "fix.v2.ko.intoto.jsonl", "fix.v2.log", "fix.v2.console.log", "fix.v2.report.json",
    }  # fmt: skip


def test_a_build_that_fails_saves_what_explains_it_and_no_module(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Server(FAILED, {"log": b"LOG"}), *BUILD) == 3
    assert {file.name for file in tmp_path.iterdir()} == {
        "fix.patch", f"elivepatch-{JOB}.log", f"elivepatch-{JOB}.report.json",
    }  # fmt: skip
    told = capsys.readouterr().err
    assert "error: It changes data. [data-changed]" in told
    assert "    +x\n" in told
    assert "hint: Do not." in told


@pytest.mark.parametrize(
    ("result", "kind", "status"),
    [("failure", "failure", 1), ("failure", "verdict", 3), ("error", "error", 4), ("cancelled", "error", 4)],
)
@pytest.mark.parametrize("command", ["build", "check"])
def test_the_exit_status_says_how_it_ended(run: Run, command: str, result: str, kind: str, status: int) -> None:
    server = Server(FAILED | {"result": result, "problem": PROBLEM | {"kind": kind}}, {})
    assert run(server, command, "fix.patch", "--kernel", KERNEL) == status
    assert run(server, command, "fix.patch", "--kernel", KERNEL, "--json") == status


def test_json_is_one_document_and_nothing_else(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Server(SUCCESS), *BUILD, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document == SUCCESS | {
        "files": {
            "log": "livepatch_meminfo.log",
            "console": "livepatch_meminfo.console.log",
            "report": "livepatch_meminfo.report.json",
            "proof": "livepatch_meminfo.ko.intoto.jsonl",
            "module": "livepatch_meminfo.ko",
        }
    }
    assert run(Server(FAILED, {}), *BUILD, "--json") == 3
    assert json.loads(capsys.readouterr().out)["problem"] == PROBLEM


def test_a_check_gives_the_verdict_and_saves_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(SUCCESS | {"livepatch": None, "module_sha256": None, "trial": None})
    assert run(server, "check", "fix.patch", "--kernel", KERNEL) == 0
    assert (server.body()["check_only"], server.body()["trial"]) == (True, False)
    assert "OK: these patches can be a livepatch" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["fix.patch"]


def test_kernels_are_listed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Server(SUCCESS), "kernels") == 0
    assert KERNEL in capsys.readouterr().out
    assert run(Server(SUCCESS), "kernels", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kernels"][0]["release"] == KERNEL
    assert run(lambda _: httpx2.Response(200, json={"kernels": []}), "kernels") == 0
    assert "no bases" in capsys.readouterr().out


def test_an_earlier_job_is_followed_without_asking_again(run: Run, tmp_path: Path) -> None:
    server = Server(SUCCESS)
    assert run(server, "build", "--follow", JOB) == 0
    assert {request.method for request in server.asked} == {"GET"}
    assert (tmp_path / "livepatch_meminfo.ko").read_bytes() == b"MODULE"


@pytest.mark.parametrize(
    "argv",
    [
        ("build",),
        ("build", "fix.patch"),
        ("build", "--kernel", KERNEL),
        ("build", "none.patch", "--kernel", KERNEL),
        ("build", ".", "--kernel", KERNEL),
        ("build", "fix.patch", "--kernel", "../x"),
        ("build", "fix.patch", "--kernel", KERNEL, "--expect", "no operator"),
        ("build", "fix.patch", "--kernel", KERNEL, "--expect", "x =~ ("),
        ("build", "fix.patch", "--kernel", KERNEL, "--expect", "x =~ y", "--no-trial"),
        ("build", "fix.patch", "--kernel", KERNEL, "--thorough", "--no-trial"),
        ("build", "--follow", JOB, "--thorough"),
        ("apply", "fix.patch", "--thorough", "--no-trial"),
        ("build", "fix.patch", "--kernel", KERNEL, "-o", "none/x.ko"),
        ("build", "--follow", "no-job"),
        ("build", "--follow", JOB, "fix.patch"),
        ("build", "--follow", JOB, "--builder", "klp"),
        ("build", "--follow", JOB, "--paranoid"),
        ("build", "fix.patch", "--kernel", KERNEL, "--builder", "make"),
        ("check", "fix.patch"),
        ("check", "--kernel", KERNEL),
        ("kernels", "surplus"),
        ("unheard-of",),
        (),
    ],
)
def test_a_command_line_that_cannot_be_understood_ends_with_2_and_asks_nothing(
    run: Run, argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(SUCCESS)
    assert run(server, *argv) == 2
    assert server.asked == []
    assert "hint: " in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"module_sha256": None}, {"kernel": "6.1.0-49-cloud-amd64"}])
def test_a_success_that_does_not_belong_to_the_request_is_refused(
    run: Run, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert run(Server(SUCCESS | change), *BUILD) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["fix.patch"]


def test_a_server_that_is_not_there_ends_with_4_and_advice(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused")

    for argv in (BUILD, ("check", "fix.patch", "--kernel", KERNEL), ("kernels",)):
        assert run(absent, *argv) == 4
        assert "elivepatch-server serve" in capsys.readouterr().err


def test_a_module_that_arrives_cut_off_ends_with_5_and_is_not_saved(run: Run, tmp_path: Path) -> None:
    assert run(Server(SUCCESS, {"log": b"L", "console": b"C", "module": b"MODUL"}), *BUILD) == 5
    assert [file.name for file in tmp_path.iterdir()] == ["fix.patch"]


def test_a_directory_that_cannot_be_written_ends_with_6(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.ko").mkdir()
    assert run(Server(SUCCESS), *BUILD, "-o", "x.ko") == 6
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_an_earlier_module_stays_whole_until_the_new_one_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.ko").write_bytes(b"OLD")
    assert run(Server(SUCCESS, {"module": b"MODUL"}), *BUILD, "-o", "x.ko") == 5
    assert (tmp_path / "x.ko").read_bytes() == b"OLD"
    assert run(Server(SUCCESS), *BUILD, "-o", "x.ko") == 0
    assert (tmp_path / "x.ko").read_bytes() == b"MODULE"


def test_an_interruption_leaves_the_job_and_says_how_to_come_back(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(SUCCESS)

    def interrupted(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            raise KeyboardInterrupt
        return server(request)

    assert run(interrupted, *BUILD, "-u", "http://127.0.0.1:9") == 130
    told = capsys.readouterr().err
    assert f"elivepatch build --follow {JOB} --url http://127.0.0.1:9" in told
    assert {request.method for request in server.asked} == {"POST"}


def test_what_a_server_says_moves_no_cursor(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    problem = PROBLEM | {"message": "a\x1b[2Jb\r\u202ec", "excerpt": "x\x1b]0;t\x07", "advice": "\x9b1m"}
    assert run(Server(FAILED | {"problem": problem}, {}), *BUILD) == 3
    printed = capsys.readouterr()
    assert not [c for c in printed.out + printed.err if c != "\n" and not c.isprintable()]


PROPOSAL = {
    "patch": "# A proposal.\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\f\n+b\n",
    "steps": [{"code": "new-data", "path": "x", "what": "b loses its attribute", "why": "It only places it"}],
    "refusal": "",
}


def test_a_rewrite_is_requested_and_only_its_patch_is_printed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(FAILED | {"proposal": PROPOSAL}, {})
    assert run(server, "check", "fix.patch", "--kernel", KERNEL, "--rewrite") == 3
    assert server.body()["rewrite"] is True
    printed = capsys.readouterr()
    assert printed.out == PROPOSAL["patch"]
    assert "x: b loses its attribute [new-data]. It only places it." in printed.err


def test_a_proposal_is_written_to_the_place_of_output(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(FAILED | {"proposal": PROPOSAL}, {})
    assert run(server, "check", "fix.patch", "--kernel", KERNEL, "--rewrite", "-o", "new.patch") == 3
    assert (tmp_path / "new.patch").read_text() == PROPOSAL["patch"]
    assert capsys.readouterr().out == ""


def test_the_reason_for_no_proposal_is_printed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"patch": "", "steps": [], "refusal": "New code needs it."}
    assert run(Server(FAILED | {"proposal": refused}, {}), "check", "fix.patch", "--kernel", KERNEL, "--rewrite") == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no proposal: New code needs it." in printed.err


def test_nothing_is_rewritten_unasked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(FAILED, {})
    assert run(server, "check", "fix.patch", "--kernel", KERNEL) == 3
    assert server.body()["rewrite"] is False
    assert run(server, "check", "fix.patch", "--kernel", KERNEL, "-o", "new.patch") == 2
    assert "--rewrite" in capsys.readouterr().err
