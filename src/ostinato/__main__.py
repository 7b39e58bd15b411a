"""``python -m ostinato``, also for ``torchrun -m ostinato``: the command line."""

from __future__ import annotations

import sys

from ostinato.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
