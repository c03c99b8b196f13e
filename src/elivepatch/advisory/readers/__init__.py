# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of record collections: directory, clone, archive."""
