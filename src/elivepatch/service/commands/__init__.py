# SPDX-License-Identifier: GPL-2.0-or-later
"""One module per subcommand of `elivepatch-server`; each has `register(subparsers)`."""
