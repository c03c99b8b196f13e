# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations: the steps from the tables of one version to the next, run at the start of the server."""
