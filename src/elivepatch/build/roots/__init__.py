# SPDX-License-Identifier: GPL-2.0-or-later
"""Roots: the file systems of toolchains, and what is in them."""
