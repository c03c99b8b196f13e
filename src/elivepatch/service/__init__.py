# SPDX-License-Identifier: GPL-2.0-or-later
"""The build service: jobs, store, HTTP API."""
