# SPDX-License-Identifier: GPL-2.0-or-later
"""Livepatches of this host: record, load, unload."""
