# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that do the steps of jobs, so that the process that answers clients never computes (docs/adr/0015)."""
