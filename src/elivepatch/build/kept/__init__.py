# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that the build of a kernel left, or that a distribution ships of it: read, tied to each other, completed."""
