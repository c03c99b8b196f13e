# SPDX-License-Identifier: GPL-2.0-or-later
"""Program that searches texts for patterns, or only compiles these, and prints one JSON answer a line.

It reads a JSON list of [pattern, text] pairs on standard input; without a text (null) the answer is true, or the reason
why the pattern is none. patterns.py runs it under a time limit: a pattern comes from a stranger, and Python's `re` may
compile for minutes and backtrack for years while it ignores signals and holds the interpreter. The standard library is
all that it may import, for it runs without the package's path.
"""

import json
import re
import resource
import sys

_MEMORY_BYTES = 1 << 30


def main() -> None:
    """Answer pair by pair: if one search never ends, the answers before it are not lost."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for pattern, text in json.load(sys.stdin):
        answer = _compiled(pattern) if text is None else re.search(pattern, text, re.MULTILINE) is not None
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _compiled(pattern: str) -> bool | str:
    try:
        re.compile(pattern, re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        # The last two: the expression repeats or nests more than Python allows.
        return str(error)
    return True


if __name__ == "__main__":
    main()
