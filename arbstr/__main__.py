"""`python -m arbstr` is the `arbstr` command."""

import sys

from arbstr.cli import main

if __name__ == "__main__":
    sys.exit(main())
