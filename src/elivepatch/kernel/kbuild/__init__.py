# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that kbuild leaves beside the objects of a kernel: they name the source and the parent of each."""
