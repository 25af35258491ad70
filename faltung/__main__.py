"""`python -m faltung` is the command line."""

import sys

from faltung.cli import main

if __name__ == "__main__":
    sys.exit(main())
