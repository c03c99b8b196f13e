# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a source patch: what it touches, whether it may, and where its lines go."""
