"""``python -m flambeau.worker``: what the frontend starts for each worker."""

from __future__ import annotations

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
