# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot the very kernel in a VM, load the livepatch, observe, revert, load again."""
