# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs: durable execution of build requests."""
