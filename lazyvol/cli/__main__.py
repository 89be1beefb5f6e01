"""``python -m lazyvol.cli``."""

import sys

from lazyvol.cli import main

sys.exit(main())
