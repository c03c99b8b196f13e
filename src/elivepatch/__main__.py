# SPDX-License-Identifier: GPL-2.0-or-later
"""The `elivepatch` command as `python -m elivepatch`."""

from elivepatch.client.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
