# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a request to the server from being answered: nobody is there, or the server does not want it."""

from __future__ import annotations

from elivepatch.model.errors import ElivepatchError, EnvironmentFault, Problem


class Unreachable(EnvironmentFault):
    """The server does not answer, or not now. Asking again may help."""


class Refused(ElivepatchError):
    """The server answered with a problem of its own words."""

    def __init__(self, problem: Problem) -> None:
        Exception.__init__(self, problem.message)
        self.problem = problem
