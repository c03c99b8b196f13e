# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of a running kernel, read by new code: places, sizes, numbers and meaning must stay."""
