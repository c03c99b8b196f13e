# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP: the API and its server process."""
