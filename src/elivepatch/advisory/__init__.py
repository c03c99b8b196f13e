# SPDX-License-Identifier: GPL-2.0-or-later
"""CVE records, which of them concern a kernel, and where their fixes are."""
