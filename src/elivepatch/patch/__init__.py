# SPDX-License-Identifier: GPL-2.0-or-later
"""Source patches: the files and lines that they change, and the C that these hold."""
