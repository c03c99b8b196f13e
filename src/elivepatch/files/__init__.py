# SPDX-License-Identifier: GPL-2.0-or-later
"""Ground floor for files: atomic writes, locks between processes, bounded reads, digests."""
