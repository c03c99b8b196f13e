# SPDX-License-Identifier: GPL-2.0-or-later
"""Access: accounts, audit log, allowed patches."""
