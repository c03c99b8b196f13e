# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys, signatures and their verification."""
