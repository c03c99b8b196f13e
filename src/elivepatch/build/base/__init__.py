# SPDX-License-Identifier: GPL-2.0-or-later
"""Bases: everything needed to build against one kernel."""
