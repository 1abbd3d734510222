"""The import namespace ``ts``, for handlers that were written for TorchServe; in workers only."""

from __future__ import annotations

from .finder import install

__all__ = ["install"]
