# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of kernels, of any distribution: .deb, .rpm and pacman's, read in the sandbox."""
