# SPDX-License-Identifier: GPL-2.0-or-later
"""From a base and a patch series to a livepatch."""
