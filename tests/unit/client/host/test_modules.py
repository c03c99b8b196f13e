# SPDX-License-Identifier: GPL-2.0-or-later
"""Only a signed module for this kernel is loaded, after a preflight on this host."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from host_commands import Ran, enrol, run_json, save
from proofs import ORIGIN, Facts, observation
from simulated_host import Made, SimulatedHost, Task, make_livepatch

from elivepatch.client.host.modules import open_verified
from elivepatch.client.proof.files import proof_beside
from elivepatch.model.errors import HostError
from elivepatch.model.trial import TrialReport
from elivepatch.trust.keys import ServerKey


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    return found


def load(host: SimulatedHost, made: Made, *options: str | Path) -> Ran:
    return run_json(host, "load", save(made, host.root / "files"), *options)


STRANGER = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
REFUSED = {
    "for another build-id": (make_livepatch("elp_a", build_id="ff" * 20), 6, "other-kernel"),
    "for another release": (make_livepatch("elp_a", release="6.1.0-49-cloud-amd64"), 6, "other-kernel"),
    "signed by a stranger": (make_livepatch("elp_a", key=STRANGER), 5, "signature"),
    "an ordinary module": (make_livepatch("elp_a", livepatch="N"), 6, "not-a-livepatch"),
    "with another vermagic": (make_livepatch("elp_a", vermagic="6.1.0-49-cloud-amd64"), 6, "vermagic"),
    "with another name inside": (make_livepatch("elp_a", said_name="elp_b"), 6, "module-name"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_module_that_does_not_fit_is_refused_and_the_kernel_not_touched(host: SimulatedHost, what: str) -> None:
    made, status, code = REFUSED[what]
    ran = load(host, made)
    assert (ran.status, ran.code) == (status, code)
    assert host.loads == 0
    assert host.store.record().set.entries == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole[:-9],
        lambda whole: whole[:-1] + b"!",
        lambda _: b"",
    ],
    ids=["truncated", "tampered", "empty"],
)
def test_a_changed_file_is_refused(host: SimulatedHost, change: Callable[[bytes], bytes]) -> None:
    module = save(make_livepatch("elp_a"), host.root / "files")
    module.write_bytes(change(module.read_bytes()))
    ran = run_json(host, "load", module)
    assert (ran.status, ran.code) == (5, "module-digest")
    assert host.loads == 0


def test_a_module_without_a_proof_is_refused(host: SimulatedHost) -> None:
    module = save(make_livepatch("elp_a"), host.root / "files")
    proof_beside(module).unlink()
    ran = run_json(host, "load", module)
    assert (ran.status, ran.code) == (5, "unsigned")


def test_a_host_that_trusts_no_server_loads_nothing(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path)
    ran = load(host, make_livepatch("elp_a"))
    assert (ran.status, ran.code) == (5, "not-enrolled")


def test_a_file_that_is_signed_but_no_elf_is_refused(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    import simulated_host

    monkeypatch.setattr(simulated_host, "module_bytes", lambda *_: b"#!/bin/sh\n")
    ran = load(host, make_livepatch("elp_a"))
    assert (ran.status, ran.code) == (5, "module-malformed")


def test_the_kept_copy_is_verified_again_whenever_it_is_loaded(host: SimulatedHost) -> None:
    load(host, make_livepatch("elp_a"))
    load(host, make_livepatch("elp_b", series=["a" * 64, "b" * 64]))
    kept = host.store.path_of(make_livepatch("elp_a").statement.digest, "ko")
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    ran = run_json(host, "rollback")
    assert (ran.status, ran.code) == (5, "module-digest")
    assert host.live == ["elp_b"]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_a_plain_file_is_opened_for_loading(host: SimulatedHost, tmp_path: Path, kind: str) -> None:
    made = make_livepatch("elp_a")
    module = save(made, tmp_path / "files")
    odd = tmp_path / "odd.ko"
    if kind == "link":
        odd.symlink_to(module)
    elif kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.mkdir()
    with pytest.raises(HostError), open_verified(host.machine.host, odd, made.proof, []):
        pass


def test_loading_the_same_livepatch_twice_does_nothing_the_second_time(host: SimulatedHost) -> None:
    load(host, make_livepatch("elp_a"))
    ran = load(host, make_livepatch("elp_a"))
    assert ran.status == 0
    assert ran.document["already_live"] is True
    assert host.loads == 1


def test_a_livepatch_that_would_drop_a_live_fix_is_refused(host: SimulatedHost) -> None:
    load(host, make_livepatch("elp_a", series=["a" * 64]))
    ran = load(host, make_livepatch("elp_b", series=["b" * 64]))
    assert (ran.status, ran.code) == (6, "not-cumulative")
    assert host.live == ["elp_a"]


def test_a_dry_run_reports_the_same_and_loads_nothing(host: SimulatedHost) -> None:
    made = make_livepatch("elp_a")
    dry = load(host, made, "--dry-run").document
    assert host.loads == 0
    assert list((host.root / "var/lib/elivepatch/files").iterdir()) == []
    wet = load(host, made).document
    assert dry["loaded"] is False
    assert wet["loaded"] is True
    assert dry["findings"] == wet["findings"]
    assert dry["livepatch"] == wet["livepatch"]


class TestPreflight:
    def test_a_livepatch_of_others_is_not_taken_back_unasked(self, host: SimulatedHost) -> None:
        with save(make_livepatch("kpatch_x"), host.root / "files").open("rb") as file:
            host.load(file.fileno())
        ran = load(host, make_livepatch("elp_a"))
        assert (ran.status, ran.code) == (6, "foreign-livepatch")
        assert host.live == ["kpatch_x"]
        assert load(host, make_livepatch("elp_s", replace=False)).status == 0
        assert host.live == ["kpatch_x", "elp_s"]

    def test_a_livepatch_with_pointers_into_itself_is_not_replaced(self, host: SimulatedHost) -> None:
        host.held.add("elp_a")
        load(host, make_livepatch("elp_a", series=["a" * 64]))
        ran = load(host, make_livepatch("elp_b", series=["a" * 64, "b" * 64]))
        assert (ran.status, ran.code) == (6, "callbacks-live")
        assert host.live == ["elp_a"]
        assert load(host, make_livepatch("elp_s", replace=False)).status == 0

    def test_a_name_in_use_is_reported(self, host: SimulatedHost) -> None:
        with save(make_livepatch("elp_a"), host.root / "files").open("rb") as file:
            host.load(file.fileno())
        ran = load(host, make_livepatch("elp_a", functions=["other"], replace=False))
        assert (ran.status, ran.code) == (6, "name-taken")

    def test_a_function_that_the_kernel_has_twice_is_reported(self, host: SimulatedHost) -> None:
        line = "0000000000000000 t meminfo_proc_show\n"
        host.put("proc/kallsyms", line)
        assert load(host, make_livepatch("elp_a"), "--dry-run").status == 0
        for content in (line * 2, "0000000000000000 t other\n"):
            host.put("proc/kallsyms", content)
            ran = load(host, make_livepatch("elp_a"), "--dry-run")
            assert (ran.status, ran.code) == (6, "function-missing")

    def test_of_two_functions_of_one_name_the_kernel_must_have_both(self, host: SimulatedHost) -> None:
        made = make_livepatch("elp_a", functions=["c_start,1", "c_start,3", "c_start,2"])
        for count, status in ((3, 0), (2, 6)):
            host.put("proc/kallsyms", "0000000000000000 t c_start\n" * count)
            ran = load(host, made, "--dry-run")
            assert ran.status == status
            assert status == 0 or ran.code == "function-missing"

    def test_a_tracer_on_the_function_is_reported(self, host: SimulatedHost) -> None:
        host.put("sys/kernel/tracing/enabled_functions", "meminfo_proc_show (1) R I     \ttramp: x\n")
        ran = load(host, make_livepatch("elp_a"))
        assert (ran.status, ran.code) == (6, "tracer-holds")

    def test_a_task_inside_the_function_is_named(self, host: SimulatedHost) -> None:
        host.tasks.append(Task(42, "reader", function="meminfo_proc_show", leaves_at=host.time + 5))
        host.pass_time(1)
        ran = load(host, make_livepatch("elp_a"), "--dry-run")
        told = next(one for one in ran.document["findings"] if one["code"] == "tasks-inside")
        assert "reader (pid 42" in told["message"]


class TestPolicy:
    """A host may ask for what a proof must contain; it believes the signed statement only."""

    TRIALS: ClassVar[dict[str, Callable[[Facts], TrialReport | None]]] = {
        "passed": Facts.trial,
        "partly": lambda facts: facts.trial(not_live=["kvm_intel"]),
        "none": lambda _: None,
    }

    @pytest.mark.parametrize("by", ["option", "setting", "default"])
    @pytest.mark.parametrize("required", ["passed", "partly", "none"])
    def test_less_than_the_required_outcome_of_the_trial_is_not_loaded(
        self, host: SimulatedHost, by: str, required: str
    ) -> None:
        options = ["--require-trial", required] if by == "option" else []
        if by == "setting":
            host.put("etc/elivepatch/client.toml", f'require_trial = "{required}"\n')
        if by == "default":
            required = "passed"
        accepted = list(self.TRIALS)[: list(self.TRIALS).index(required) + 1]
        for outcome, trial in self.TRIALS.items():
            ran = load(host, make_livepatch("elp_a", trial=trial), "--dry-run", *options)
            assert (ran.status, ran.status == 0 or ran.code) == (
                (0, True) if outcome in accepted else (6, "trial-required")
            )

    @pytest.mark.parametrize(("outcome", "code"), [("partly", "trial-partly"), ("none", "trial-none")])
    def test_what_the_trial_lacked_is_said_although_the_host_accepts_it(
        self, host: SimulatedHost, outcome: str, code: str
    ) -> None:
        made = make_livepatch("elp_a", trial=self.TRIALS[outcome])
        ran = load(host, made, "--require-trial", "none")
        assert [one["level"] for one in ran.document["findings"] if one["code"] == code] == ["note"]

    def test_a_trial_that_is_partly_for_a_predicate_says_so(self, host: SimulatedHost) -> None:
        untried = observation(met=False, tried=False, before="not tried")
        made = make_livepatch("elp_a", trial=lambda facts: facts.trial(observations=(untried,)))
        ran = load(host, made)
        assert ran.code == "trial-required"
        assert "a predicate could not be tried in its trial" in ran.document["problem"]["message"]

    def test_the_builders_that_the_host_names_must_all_have_made_it(self, host: SimulatedHost) -> None:
        both = replace(ORIGIN, builders={"objects": 3, "klp": 2})
        made = {
            "one": make_livepatch("elp_a"),
            "both": make_livepatch("elp_a", origin=both, request={"paranoid": True}),
        }
        for wanted, accepted in (("objects", {"one", "both"}), ("klp, objects", {"both"}), ("reference", set())):
            host.put("etc/elivepatch/client.toml", f'require_builders = "{wanted}"\n')
            for which, one in made.items():
                ran = load(host, one, "--dry-run")
                assert (ran.status == 0) is (which in accepted)
                assert which in accepted or ran.code == "builder-required"

    def test_a_proof_that_is_older_than_the_host_allows_is_refused(self, host: SimulatedHost) -> None:
        now = host.now()
        host.put("etc/elivepatch/client.toml", "proof_days = 30\n")
        assert load(host, make_livepatch("elp_a", finished=now - timedelta(days=29)), "--dry-run").status == 0
        assert load(host, make_livepatch("elp_a", finished=now - timedelta(days=31)), "--dry-run").code == "proof-old"
        host.put("etc/elivepatch/client.toml", "")
        assert load(host, make_livepatch("elp_a", finished=now - timedelta(days=3100)), "--dry-run").status == 0

    def test_a_livepatch_is_not_replaced_by_an_older_one_of_the_same_patches(self, host: SimulatedHost) -> None:
        now = host.now()
        old, new = (make_livepatch(f"elp_{days}", finished=now - timedelta(days=days)) for days in (20, 10))
        assert load(host, new).status == 0
        ran = load(host, old)
        assert (ran.status, ran.code) == (6, "livepatch-older")
        assert run_json(host, "unload", "elp_10").status == 0
        assert load(host, old).code == "livepatch-older", "nor after it was taken out"
        assert load(host, new).status == 0, "the same one is no older one"
        copy = make_livepatch("elp_20", finished=now - timedelta(days=20), request={"copy": 1})
        assert load(host, copy).status == 0, "a copy is no newer build than what it is a copy of"
        other = make_livepatch("elp_c", series=["a" * 64, "c" * 64], finished=now - timedelta(days=30))
        assert load(host, other).status == 0, "the age of another series says nothing"

    def test_a_newer_livepatch_of_the_same_patches_replaces_the_older_one(self, host: SimulatedHost) -> None:
        assert load(host, make_livepatch("elp_20", finished=host.now() - timedelta(days=20))).status == 0
        assert load(host, make_livepatch("elp_10", finished=host.now() - timedelta(days=10))).status == 0
        assert host.live == ["elp_10"]
        assert run_json(host, "rollback").status == 0, "a person may go back"

    def test_a_proof_from_the_future_is_refused_on_any_host(self, host: SimulatedHost) -> None:
        soon, later = host.now() + timedelta(minutes=59), host.now() + timedelta(minutes=61)
        assert load(host, make_livepatch("elp_a", finished=soon), "--dry-run").status == 0
        ran = load(host, make_livepatch("elp_a", finished=later), "--dry-run")
        assert (ran.status, ran.code) == (6, "proof-future")

    @pytest.mark.parametrize(
        "line", ['require_trial = "yes"', 'require_trial = ""', 'require_builders = "gcc"', "proof_days = -1"]
    )
    def test_a_setting_that_means_nothing_is_refused(self, host: SimulatedHost, line: str) -> None:
        host.put("etc/elivepatch/client.toml", f"{line}\n")
        assert load(host, make_livepatch("elp_a")).code == "settings"
