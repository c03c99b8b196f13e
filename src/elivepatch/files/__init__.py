# SPDX-License-Identifier: GPL-2.0-or-later
"""Files on disk: written whole, locked, read within bounds."""
