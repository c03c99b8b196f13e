# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug information of a kernel and its modules: packages with it, names of compile units, symbol tables."""
