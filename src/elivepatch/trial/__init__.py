# SPDX-License-Identifier: GPL-2.0-or-later
"""Trials: boot the host's very kernel in a VM, load the livepatch, observe, revert, load again."""
