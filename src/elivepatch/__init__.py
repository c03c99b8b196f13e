# SPDX-License-Identifier: GPL-2.0-or-later
"""elivepatch: change a running Linux kernel without a reboot."""
