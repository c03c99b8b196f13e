# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine the client runs on: what it is, what is live on it, and how a livepatch gets in and out."""
