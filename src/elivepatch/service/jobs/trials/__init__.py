# SPDX-License-Identifier: GPL-2.0-or-later
"""Trials of jobs: the input that the server keeps for one, and the earlier livepatch that it is loaded over."""
