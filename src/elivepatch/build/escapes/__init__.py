# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses of the livepatch's own that its code hands out, and that outlive it."""
