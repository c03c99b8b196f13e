# SPDX-License-Identifier: GPL-2.0-or-later
"""Program that searches texts for patterns and prints one JSON answer a line.

It reads a JSON list of [pattern, text] pairs on standard input. expectations.py runs it under a time limit: a pattern
comes from a stranger, and Python's `re` may backtrack for years while it ignores signals and holds the interpreter.
The standard library is all that it may import, for it runs without the package's path.
"""

import json
import re
import sys


def main() -> None:
    """Answer pair by pair: if one search never ends, the answers before it are not lost."""
    for pattern, text in json.load(sys.stdin):
        sys.stdout.write(json.dumps(re.search(pattern, text, re.MULTILINE) is not None) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
