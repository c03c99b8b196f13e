# SPDX-License-Identifier: GPL-2.0-or-later
"""Exposure: which CVEs are open on one kernel."""
