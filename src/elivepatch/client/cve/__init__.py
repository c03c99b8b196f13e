# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about CVEs: `elivepatch cve`, `overlay` and `auto`, from typed options."""
