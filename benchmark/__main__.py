"""``python -m benchmark``: the command line without the installed script."""

import sys

from benchmark.cli import main

sys.exit(main())
