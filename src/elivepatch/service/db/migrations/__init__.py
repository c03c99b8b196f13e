# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps from one version's tables to the next, run at every start of the server."""
