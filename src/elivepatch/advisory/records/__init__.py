# SPDX-License-Identifier: GPL-2.0-or-later
"""CVE records: formats, corrections, index."""
