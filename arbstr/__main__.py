"""`python -m arbstr` is the `arbstr` command."""

import sys

from arbstr.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
