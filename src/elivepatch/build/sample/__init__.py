# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects compiled by the dozen and compared with the shipped kernel: a sample of them proves a new base."""
