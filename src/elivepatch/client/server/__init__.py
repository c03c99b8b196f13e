# SPDX-License-Identifier: GPL-2.0-or-later
"""Server: everything the client exchanges with one."""
