"""`python -m mixer`."""

import sys

from mixer.cli import main

if __name__ == "__main__":
    sys.exit(main())
