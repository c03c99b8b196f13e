# SPDX-License-Identifier: GPL-2.0-or-later
"""Evidence of a trial: the guest's records and its kernel's log, and the verdict that follows from them."""
