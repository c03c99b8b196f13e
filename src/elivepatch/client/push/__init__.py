# SPDX-License-Identifier: GPL-2.0-or-later
"""Push of a kernel: the files that its build left go to the server, which makes the base from them."""
