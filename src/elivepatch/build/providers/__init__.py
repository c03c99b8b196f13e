# SPDX-License-Identifier: GPL-2.0-or-later
"""Providers: the ways in which a server gets the files of a kernel that a host asks for."""
