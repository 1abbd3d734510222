"""``python -m flambeau.worker``: what the frontend starts for each worker."""

from __future__ import annotations

from .leaving import run_and_leave
from .main import main

if __name__ == "__main__":
    run_and_leave(main)
