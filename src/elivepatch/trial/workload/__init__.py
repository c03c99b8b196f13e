# SPDX-License-Identifier: GPL-2.0-or-later
"""Workload of a trial: the programs that run the replaced functions, and the counts of these functions' calls."""
