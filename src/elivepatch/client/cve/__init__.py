# SPDX-License-Identifier: GPL-2.0-or-later
"""What `elivepatch cve`, `overlay` and `auto` do."""
