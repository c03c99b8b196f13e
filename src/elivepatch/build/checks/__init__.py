# SPDX-License-Identifier: GPL-2.0-or-later
"""What is proved about a build before its module leaves the server."""
