# SPDX-License-Identifier: GPL-2.0-or-later
"""Nouns of the project: pure values, no input or output, the standard library only."""
