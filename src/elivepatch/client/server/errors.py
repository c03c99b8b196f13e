# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of a request: the server is unreachable, or refused it."""

from __future__ import annotations

from elivepatch.model.errors import ElivepatchError, EnvironmentFault, Problem


class Unreachable(EnvironmentFault):
    """The server does not answer. The same request may succeed later."""


class Refused(ElivepatchError):
    """The server answered with a problem document."""

    def __init__(self, problem: Problem) -> None:
        Exception.__init__(self, problem.message)
        self.problem = problem
