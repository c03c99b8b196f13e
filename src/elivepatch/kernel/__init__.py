# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a kernel: its configuration, ELF files, symbols and debug information."""
