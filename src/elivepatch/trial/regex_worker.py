# SPDX-License-Identifier: GPL-2.0-or-later
"""A program of its own: whether patterns are found in texts, one JSON answer per line.

Reads a JSON list of [pattern, text] pairs on standard input. It is run by matching.py under a time limit, because a
pattern comes from outside and Python's `re` may backtrack for years, deaf to signals and holding the interpreter.
"""

import json
import re
import sys


def main() -> None:
    """Answer pair by pair, so that those before one that never ends are not lost."""
    for pattern, text in json.load(sys.stdin):
        sys.stdout.write(json.dumps(re.search(pattern, text, re.MULTILINE) is not None) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
