# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of the project: values without input or output, made with the standard library only."""
