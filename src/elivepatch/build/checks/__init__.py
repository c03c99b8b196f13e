# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of a build before its module leaves the server."""
