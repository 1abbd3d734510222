"""The import namespace ``ts``, for handlers that were written for TorchServe.

Workers install it. So may tests of handlers, and then need no TorchServe::

    from flambeau.worker.compat import install

    install()
"""

from __future__ import annotations

from .finder import install

__all__ = ["install"]
