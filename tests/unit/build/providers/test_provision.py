# SPDX-License-Identifier: GPL-2.0-or-later
"""Provision of a kernel: the first provider that has it makes its base, and each other one says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bare_base import bare_base

from elivepatch.build.base.store import Base
from elivepatch.build.providers.choice import provider_names
from elivepatch.build.providers.provision import NotProvided, described, provide, transcript
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.model.kernel import BuildId, Release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Event

ASKED = KernelRequest(release=Release("6.1.0-50-cloud-amd64"))


class Giving:
    """A provider with one answer."""

    def __init__(self, name: str, answer: Base | NotProvided | ElivepatchError) -> None:
        self.name = name
        self.answer = answer
        self.asked: list[KernelRequest] = []

    def provide(self, asked: KernelRequest) -> Base | NotProvided:
        self.asked.append(asked)
        if isinstance(self.answer, ElivepatchError):
            raise self.answer
        return self.answer


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return replace(bare_base(tmp_path), release=ASKED.release)


def no(name: str) -> Giving:
    return Giving(name, NotProvided(why=f"{name} has none.", advice=f"Ask {name}."))


def broken(name: str) -> Giving:
    return Giving(name, EnvironmentFault("package-missing", "Its debug package is gone.", advice="Wait."))


def test_the_first_provider_that_has_the_kernel_makes_the_base(base: Base) -> None:
    providers = [no("one"), Giving("two", base), Giving("three", base)]
    assert provide(ASKED, providers, None) is base
    assert [provider.asked for provider in providers] == [[ASKED], [ASKED], []]


def test_a_base_that_is_present_is_the_answer_and_no_provider_is_asked(base: Base) -> None:
    provider = no("one")
    assert provide(ASKED, [provider], base) is base
    assert provider.asked == []


def test_without_a_provider_that_has_it_each_says_why() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        provide(ASKED, [no("one"), no("two")], None)
    problem = caught.value.problem
    assert problem.code == "kernel-not-provided"
    assert problem.excerpt == "one: one has none.\ntwo: two has none."


def test_a_provider_that_fails_is_followed_by_the_next(base: Base) -> None:
    assert provide(ASKED, [broken("one"), Giving("two", base)], None) is base


def test_the_failure_of_a_provider_that_has_the_kernel_comes_before_the_others_words() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        provide(ASKED, [no("one"), broken("two")], None)
    assert caught.value.problem.code == "package-missing"
    assert "one: one has none." in caught.value.problem.excerpt


def test_a_server_without_providers_names_its_operator() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        provide(ASKED, [], None)
    assert "elivepatch-server kernel add" in caught.value.problem.advice


def test_a_kernel_with_another_build_id_is_no_answer(base: Base) -> None:
    asked = replace(ASKED, build_id=BuildId("9" * 40))
    with pytest.raises(EnvironmentFault) as caught:
        provide(asked, [Giving("one", base)], None)
    assert caught.value.problem.code == "other-build"
    same = replace(ASKED, build_id=base.identity.build_id)
    assert provide(same, [Giving("one", base)], None) is base


def test_a_kernel_of_another_architecture_is_refused_before_any_provider_is_asked() -> None:
    provider = no("one")
    with pytest.raises(EnvironmentFault) as caught:
        provide(replace(ASKED, arch="aarch64"), [provider], None)
    assert (caught.value.problem.code, provider.asked) == ("arch-unsupported", [])


def test_the_log_begins_with_what_the_host_said_of_its_kernel() -> None:
    assert described(ASKED) == "asked for 6.1.0-50-cloud-amd64"
    asked = replace(ASKED, build_id=BuildId("ab" * 20), distribution="debian 12", package="6.1.176-1")
    assert described(asked).endswith(f"; build-id {'ab' * 20}; distribution debian 12; package 6.1.176-1")


def test_the_log_has_the_steps_and_the_problem_but_not_each_tick(tmp_path: Path) -> None:
    told: list[Event] = []
    log = tmp_path / "log"

    def work() -> None:
        with transcript(log, told.append) as tell:
            tell(Event(stage="download", message="image", fraction=0.0))
            tell(Event(stage="download", message="image, 10 of 100 MiB", fraction=0.1))
            raise EnvironmentFault("package-damaged", "The download is damaged.", advice="Again.", excerpt="x")

    with pytest.raises(EnvironmentFault):
        work()
    assert log.read_text() == "image\nThe download is damaged. [package-damaged]\nx\n"
    assert len(told) == 2


def test_the_setting_has_known_words_only() -> None:
    assert provider_names("source, debian") == ("source", "debian")
    assert provider_names("") == ()
    with pytest.raises(UsageError, match="no provider of kernels called 'gentoo'"):
        provider_names("debian,gentoo")
