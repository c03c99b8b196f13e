# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of a distribution: read from its signed archive, as binary packages and as their source."""
