# SPDX-License-Identifier: GPL-2.0-or-later
"""Account of what differs between an original and a patched object: carried, explained or refused."""
