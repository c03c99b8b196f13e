# SPDX-License-Identifier: GPL-2.0-or-later
"""Sandbox: untrusted programs run here."""
