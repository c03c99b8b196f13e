# SPDX-License-Identifier: GPL-2.0-or-later
"""Evidence on a guest that no code in the guest can write: its memory, read while it is stopped."""
