# SPDX-License-Identifier: GPL-2.0-or-later
"""Back ends from base and series to livepatch."""
