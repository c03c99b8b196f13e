# SPDX-License-Identifier: GPL-2.0-or-later
"""Proofs on a client: their files, what they show, and what this host asks of them."""
