# SPDX-License-Identifier: GPL-2.0-or-later
"""Single objects: reached, compiled, compared, linked."""
