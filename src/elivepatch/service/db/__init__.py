# SPDX-License-Identifier: GPL-2.0-or-later
"""Database: tables and migrations."""
