# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewrites: rules that turn a refused series into one that can be a livepatch."""
