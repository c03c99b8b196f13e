# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes of the API, grouped by resource."""
