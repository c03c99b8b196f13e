# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of a build: programs try what a patch could make it do, and fail."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deadline import wait_until

from elivepatch.build.base.store import Base
from elivepatch.build.objects.compile import Compiler, Original
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox, writable_directory
from elivepatch.build.sandbox.cgroup import own_group
from elivepatch.model.errors import BuildStopped, EnvironmentFault
from elivepatch.process import Completed, run
from elivepatch.service.jobs.local_backend import LocalBackend

pytestmark = pytest.mark.kernel

PROBE = Path(__file__).parent / "samples/probe.c"


@pytest.fixture(scope="module")
def sandbox(backend: LocalBackend) -> Sandbox:
    toolchains = backend.toolchains
    return toolchains.sandbox(toolchains.add("debian-13"))


@pytest.fixture
def output(reachable_path: Path) -> Path:
    """A directory that the build may write to."""
    made = reachable_path / "output"
    made.mkdir()
    shutil.chown(made, BUILD_UID, BUILD_UID)
    return made


@pytest.fixture(scope="module")
def probe(sandbox: Sandbox, shared_path: Path) -> Callable[..., dict[str, str]]:
    """Run one part of samples/probe.c inside and return what it said, by name."""
    made = shared_path / "probe"
    made.mkdir()
    shutil.chown(made, BUILD_UID, BUILD_UID)
    (shared_path / "probe.c").write_bytes(PROBE.read_bytes())
    compiled = sandbox.run(["gcc-14", "-o", "/out/probe", "/in/probe.c"], inputs=shared_path, output=made)
    compiled.check("Compiling the probe")

    def probed(*arguments: str, **where: Any) -> dict[str, str]:
        done = sandbox.run(["/tools/probe", *arguments], tools=made, timeout_s=60, **where)
        return dict(line.split(" ", 1) for line in done.text.splitlines())

    return probed


def shell(sandbox: Sandbox, script: str, **where: Any) -> Completed:
    return sandbox.run(["sh", "-c", script], timeout_s=60, **where)


def processes(marker: str) -> list[int]:
    """The processes of this machine whose command line holds the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def gone(marker: str) -> bool:
    """Wait up to five seconds until no process with the marker is left."""
    wait_until(lambda: not processes(marker), within_s=5)
    return not processes(marker)


def test_a_build_runs_as_nobodys_user_without_rights(sandbox: Sandbox) -> None:
    said = shell(sandbox, "id -u; id -G; cat /proc/self/status").text
    assert said.startswith(f"{BUILD_UID}\n{BUILD_UID}\n")
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_what_exploits_like_is_refused(probe: Callable[..., dict[str, str]]) -> None:
    said = probe("calls")
    assert len(said) == 25
    # No room for another namespace, no such user: there is nothing to become.
    assert {name: how for name, how in said.items() if how != "EPERM"} == {
        "clone_newuser": "ENOSPC",
        "setuid": "EINVAL",
    }
    assert said["mount"] == said["ptrace"] == said["bpf"] == said["keyctl"] == said["unshare"] == "EPERM"


def test_the_entry_for_32_bit_programs_is_no_way_around(probe: Callable[..., dict[str, str]]) -> None:
    assert probe("entry32")["entry32"] == "killed"


def test_there_is_no_network_not_even_this_machines(sandbox: Sandbox, probe: Callable[..., dict[str, str]]) -> None:
    said = probe("reach")
    assert said.pop("unix") == "done"
    assert len(said) == 8
    assert set(said.values()) == {"EAFNOSUPPORT"}
    interfaces = shell(sandbox, "cat /proc/net/dev").text.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_only_its_own_processes_can_be_seen(sandbox: Sandbox) -> None:
    seen = shell(sandbox, "cd /proc; ls -d [0-9]*").text.split()
    assert len(seen) < 6
    assert str(os.getpid()) not in seen


def test_files_of_the_host_cannot_be_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    assert not shell(sandbox, f"cat {tmp_path}/secret").ok
    assert shell(sandbox, "ls /root /home /boot /sys /lib/modules 2>/dev/null").text.replace("\n", "").count(".ko") == 0
    hidden = shell(sandbox, "ls /var/lib/elivepatch-server /var/cache/elivepatch /etc/elivepatch; cat /etc/shadow")
    assert not hidden.ok
    assert hidden.text == ""


def test_the_environment_of_the_host_cannot_be_seen(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELIVEPATCH_TOKEN", "secret")
    said = shell(sandbox, "env", env={"T": "x"}).text
    assert "ELIVEPATCH_TOKEN" not in said
    assert {line.split("=")[0] for line in said.splitlines()} == {
        "PATH", "LANG", "LC_ALL", "TZ", "HOME", "SOURCE_DATE_EPOCH", "KBUILD_BUILD_TIMESTAMP", "KBUILD_BUILD_USER",
        "KBUILD_BUILD_HOST", "T", "PWD",
    }  # fmt: skip
    assert shell(sandbox, "hostname || cat /proc/sys/kernel/hostname").text.strip() == "build"


def test_nothing_but_its_output_can_be_written(sandbox: Sandbox, reachable_path: Path, output: Path) -> None:
    given = reachable_path / "given"
    given.mkdir()
    (given / "a").write_text("mine")
    for place in ("/x", "/usr/bin/x", "/etc/x", "/in/a", "/in/x", "/tools/x", "/proc/sys/kernel/hostname"):
        assert not shell(sandbox, f"echo bad >{place}", inputs=given, tools=given, output=output).ok, place
    for command in ("rm -f /in/a", "chmod 777 /in/a", "mv /in/a /in/b", "ln -s x /in/c"):
        assert not shell(sandbox, command, inputs=given, output=output).ok, command
    assert [path.name for path in given.iterdir()] == ["a"]
    assert shell(sandbox, "echo good >/out/x && echo good >/tmp/x", output=output).ok
    assert (output / "x").stat().st_uid == BUILD_UID


def test_what_is_changed_in_a_layer_is_thrown_away(sandbox: Sandbox, base_6_1: Base) -> None:
    before = (base_6_1.tree / "Makefile").read_bytes()
    script = "echo changed >Makefile && rm -rf fs && cat Makefile && ls fs"
    said = shell(sandbox, script, layers=[base_6_1.tree])
    assert said.text == "changed\n"
    assert (base_6_1.tree / "Makefile").read_bytes() == before
    assert (base_6_1.tree / "fs/pipe.c").exists()


def test_layers_lie_on_top_of_each_other(sandbox: Sandbox, reachable_path: Path) -> None:
    for name, files in (("one", ("a", "b")), ("two", ("b",))):
        (reachable_path / name).mkdir()
        for file in files:
            (reachable_path / name / file).write_text(name)
    layers = [reachable_path / "one", reachable_path / "two"]
    assert shell(sandbox, "cat a b", layers=layers).text == "onetwo"


def test_programs_files_and_memory_are_bounded(probe: Callable[..., dict[str, str]], output: Path) -> None:
    assert int(probe("forks")["forks"]) < 600
    assert probe("memory")["memory"] == "ENOMEM"
    assert probe("size", output=output) == {"size_small": "done", "size": "EFBIG", "truncate": "EFBIG"}


@pytest.mark.skipif(own_group() is None, reason="no control group can be made here")
def test_the_memory_of_all_programs_together_is_bounded(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_group()
    assert own is not None
    group = replace(
        own, directory=own.directory.with_name(f"{own.directory.name}-small"), limit=128 << 20, counted=None
    )
    monkeypatch.setattr("elivepatch.build.sandbox.bubblewrap.own_group", lambda: group)
    # Each holds 64 MiB until the program behind it, which reads nothing, has ended.
    hold = "head -c 64M /dev/zero | tail -c 64M | sleep 1 &"
    assert shell(sandbox, f"{hold} wait; exit 3").status == 3
    with pytest.raises(EnvironmentFault, match="more than the 128 MiB") as caught:
        shell(sandbox, f"{hold * 4} wait; exit 3")
    assert caught.value.problem.code == "memory-used-up"
    group.remove()
    monkeypatch.undo()
    assert shell(sandbox, f"{hold * 4} wait; exit 3").status == 3


def test_temporary_files_are_bounded(sandbox: Sandbox) -> None:
    said = shell(sandbox, "df -k /tmp | tail -1").text.split()
    assert int(said[1]) == 1 << 20


def test_after_a_fork_bomb_the_next_build_runs(sandbox: Sandbox, probe: Callable[..., dict[str, str]]) -> None:
    probe("forks")
    assert shell(sandbox, "true").ok
    assert gone("/tools/probe\\0forks")


def test_during_a_fork_bomb_another_build_runs(sandbox: Sandbox, reachable_path: Path) -> None:
    place = writable_directory(reachable_path / "bomb")
    # The inner shell ends when it can have no more processes; the outer one then uses only what needs none.
    bomb = "(while :; do sleep 60 & done) 2>/dev/null; : >/out/full; while [ ! -e /out/end ]; do :; done"
    with ThreadPoolExecutor() as pool:
        holding = pool.submit(shell, sandbox, bomb, output=place)
        try:
            wait_until((place / "full").exists, within_s=60)
            assert shell(sandbox, "sleep 0 & wait; echo works").text.strip() == "works"
        finally:
            (place / "end").touch()
        assert holding.result().ok


def test_what_runs_in_the_background_ends_with_the_build(sandbox: Sandbox) -> None:
    assert shell(sandbox, "setsid sleep 86123 & exit 0").ok
    assert gone("86123")


def test_a_build_that_runs_too_long_is_ended_with_all_it_started(sandbox: Sandbox) -> None:
    done = sandbox.run(["sh", "-c", "setsid sleep 86124 & sleep 86124"], timeout_s=1.0)
    assert done.timed_out
    assert gone("86124")


def test_a_build_ends_when_the_server_is_killed(sandbox: Sandbox) -> None:
    script = (
        "from pathlib import Path; from elivepatch.build.sandbox.bubblewrap import Sandbox\n"
        f"Sandbox(root=Path({str(sandbox.root)!r}), helper=Path({str(sandbox.helper)!r}))"
        ".run(['sh', '-c', 'setsid sleep 86125 & sleep 86125'])\n"
    )
    # The program that holds the sandbox gets the signal, not the sandbox, which is in a session of its own.
    seen: set[int] = set()
    done = run(
        [sys.executable, "-c", script], timeout_s=2.5, on_tick=lambda _s: seen.update(processes("sleep\x0086125"))
    )
    assert done.timed_out, done.log
    assert len(seen) == 2
    assert gone("86125")


def test_a_sandbox_that_cannot_be_made_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "in").mkdir()
    with pytest.raises(EnvironmentFault) as caught:
        shell(sandbox, "true", inputs=tmp_path / "in")
    assert caught.value.problem.code == "sandbox"
    assert "cannot be made" in caught.value.problem.message


def test_an_older_bubblewrap_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "lib64").mkdir()
    fake = tmp_path / "lib64/ld-linux-x86-64.so.2"
    fake.write_text("#!/bin/sh\necho bubblewrap 0.11.2\n")
    fake.chmod(0o755)
    with pytest.raises(EnvironmentFault) as caught:
        Sandbox(root=sandbox.root, helper=tmp_path).run(["true"])
    assert caught.value.problem.code == "sandbox"
    assert "0.12" in caught.value.problem.message


def test_what_programs_print_is_kept_in_the_transcript(sandbox: Sandbox, tmp_path: Path) -> None:
    told = Sandbox(root=sandbox.root, helper=sandbox.helper, transcript=tmp_path / "log")
    shell(told, "echo product; echo remark >&2")
    shell(told, "echo product; echo remark >&2; exit 3")
    said = (tmp_path / "log").read_text()
    assert said.count("\nproduct\n") == 1, "the product of a program that succeeded is no report"
    assert said.count("\nremark\n") == 2
    assert "[status 3," in said


PLANTED = {
    "a link to a file of the host": "ln -s /etc/passwd /out/object.o",
    "a pipe": "mkfifo /out/object.o",
    "a directory": "mkdir /out/object.o",
    "nothing": "true",
    "a file without end": "truncate -s 1G /out/object.o",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_a_hostile_compile_plants_is_not_taken(
    sandbox: Sandbox, base_6_1: Base, reachable_path: Path, planted: str
) -> None:
    compiler = Compiler(base=base_6_1, sandbox=sandbox, patch_headers=sandbox.helper / "usr/share/kpatch")
    for name in ("hostile", "layer", "work"):
        (reachable_path / name).mkdir()
    (reachable_path / "hostile/command").write_text(f"{PLANTED[planted]}; exit 0; false")
    unit = base_6_1.units.by_source["fs/pipe.c"]
    started = time.monotonic()
    with pytest.raises((EnvironmentFault, BuildStopped)) as caught:
        compiler.patched(unit, Original(reachable_path / "hostile"), reachable_path / "layer", reachable_path / "work")
    # The size of an object is the patch's own fault, any other form of it is none of a compiler.
    assert caught.value.problem.code == ("module-too-large" if "without end" in planted else "sandbox-output")
    assert time.monotonic() - started < 10
    assert not (reachable_path / "work/patched.o").exists()
