# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line and what runs on the host."""
