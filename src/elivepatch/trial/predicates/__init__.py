# SPDX-License-Identifier: GPL-2.0-or-later
"""Predicates of a trial: their programs, and the way that a guest runs them."""
