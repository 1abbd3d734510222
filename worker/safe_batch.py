"""How many requests fit into memory together, learnt from batches that did not fit. Pure."""

from __future__ import annotations

FIRST_TRIAL = 32
"""Full batches that have to fit before a larger one is tried; twice as many after each failure."""
RAREST_TRIAL = 4096


class SafeBatch:
    """The most requests that are given to the handler at once; ``batch_size`` is what is wished.

    A shortage may pass: now and then a larger batch is tried. If that does not fit, its parts are
    worked on, and the next trial is twice as far away.
    """

    def __init__(self, batch_size: int) -> None:
        self.size = 0
        """0: as many as there are."""
        self._batch_size = batch_size
        self._proven = 0
        self._fitted = 0
        self._trial_after = FIRST_TRIAL

    def learn(self, too_many: int, fitting: int) -> None:
        """``too_many`` requests at once did not fit, and ``fitting`` did."""
        self._fitted = 0
        if fitting <= self._proven < too_many:
            self.size = self._proven
            self._trial_after = min(2 * self._trial_after, RAREST_TRIAL)
        else:
            self.size = self._proven = fitting
            self._trial_after = FIRST_TRIAL

    def fitted(self, count: int) -> None:
        """The handler has worked on ``count`` requests at once."""
        if not self.size or count < self.size:
            return
        self._fitted += 1
        if self._fitted >= self._trial_after:
            self._fitted = 0
            self._proven = self.size
            self.size += max(1, self.size // 2)
            if self.size >= self._batch_size:
                self.size = 0
