"""`python -m gitpeft` is the command `gitpeft`."""

import os
import sys

# With -m, Python looks for modules in the current folder first, where a `typing.py` may lie.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109 - pathlib would be looked for there, too
    del sys.path[0]

from gitpeft.cli.app import main

if __name__ == "__main__":
    main()
