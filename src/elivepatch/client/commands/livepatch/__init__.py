# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that show or change the livepatches of this host."""
