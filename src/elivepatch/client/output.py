# SPDX-License-Identifier: GPL-2.0-or-later
"""The output of the client's commands is that of all commands (`elivepatch.output`)."""

from elivepatch.output import Output

__all__ = ["Output"]
