# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about CVEs and the overlays that close them."""
