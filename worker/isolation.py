"""A batch that its handler fails is divided, until the requests that make it fail are alone.

Each part is given to the handler as a batch of its own, so that the other requests get their
answers. What does not fit into memory is divided likewise, and teaches how much does. Pure: the
handler is behind ``Attempt``, and nothing is raised.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from .messages import Answer
from .safe_batch import SafeBatch

logger = logging.getLogger("flambeau.worker")

LONGEST_REST = 64
"""Failing batches at most that are not divided, after such of which no part succeeded."""


class Next(enum.Enum):
    """What can be done about a call of the handler that failed."""

    DIVIDE = "divide"
    """Fewer requests at once may succeed."""
    KEEP = "keep"
    """A part of the answers has been sent: they cannot be asked for again."""
    LEAVE = "leave"
    """No other call can succeed."""


@dataclass(slots=True)
class Failure:
    """A call of the handler that failed after ``seconds``; each of its requests gets ``answer``."""

    answer: Answer
    seconds: float
    next: Next = Next.DIVIDE
    lacks_memory: bool = False


Attempt = Callable[[int, int], "list[Answer] | Failure"]
"""Has the handler work on requests ``first`` to before ``last`` of the batch."""


class Rest:
    """Where nobody succeeds, the handler itself is at fault: then the next failing batch is not
    divided; after that two, and so on, until somebody succeeds.
    """

    def __init__(self) -> None:
        self._pause = 0
        self._left = 0

    def __bool__(self) -> bool:
        """The next failing batch is not to be divided."""
        return self._left > 0

    def failed(self, *, nobody_succeeded: bool) -> None:
        """A batch has failed, as a whole or in part."""
        if self._left:
            self._left -= 1
        elif nobody_succeeded:
            self._pause = self._left = min(LONGEST_REST, 2 * self._pause or 1)
        else:
            self._pause = 0

    def succeeded(self) -> None:
        """A batch has succeeded as a whole."""
        self._pause = self._left = 0


class Isolation:
    """Answers batches, dividing those that fail; what it has learnt of one serves the next.

    A batch of n requests costs at most 2n - 1 calls of the handler. No call is a repeated one after
    half of ``seconds``, the time in which a batch must be answered; who has not been tried alone
    by then shares the failure of the part.
    """

    def __init__(
        self,
        batch_size: int = 1,
        seconds: float = 0.0,
        *,
        is_on: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.safe = SafeBatch(batch_size)
        self.shortages = 0
        """Calls that ran out of memory. Whoever reads it may set it back."""
        self._seconds = seconds / 2 or float("inf")
        self._is_on = is_on
        self._clock = clock
        self._rest = Rest()

    @property
    def divides(self) -> bool:
        """A batch that fails now will be divided."""
        return self._is_on and not self._rest

    def answers(self, count: int, attempt: Attempt) -> list[Answer]:
        """The answers to a batch of ``count`` requests, in order."""
        most = self.safe.size
        if most and count > most:
            division = _Division(count, attempt, self.divides, self._clock)
            division.slice(most, self._clock() + self._seconds)
            return self._ended(division)
        outcome = attempt(0, count)
        if not isinstance(outcome, Failure):
            self._rest.succeeded()
            if most:
                self._note_fit(count)
            return outcome
        if count == 1 or not self._is_on:
            self.shortages += outcome.lacks_memory
            return [outcome.answer] * count
        division = _Division(count, attempt, self.divides, self._clock)
        division.divide(outcome, self._clock() + self._seconds - outcome.seconds)
        return self._ended(division)

    def _ended(self, division: _Division) -> list[Answer]:
        answers = division.answers
        self.shortages += division.shortages
        if division.has_failed:
            self._rest.failed(nobody_succeeded=all(answer.is_error for answer in answers))
        if division.divides and division.most:
            self._learn(division.too_many, division.most)
        elif not division.shortages:
            for count in division.fitted:
                self._note_fit(count)
        return answers

    def _learn(self, too_many: int, fitting: int) -> None:
        self.safe.learn(too_many, fitting)
        logger.warning(
            "Memory ran out with %d requests at once: batches are of at most %d now, and of more "
            "when these have fitted for a while",
            too_many,
            self.safe.size,
        )

    def _note_fit(self, count: int) -> None:
        before = self.safe.size
        self.safe.fitted(count)
        if self.safe.size != before:
            most = self.safe.size or "any number of"
            logger.info("Batches of %d have fitted: %s requests are tried at once", before, most)


class _Division:
    """One batch in parts: those still to be tried, and what has become of the others."""

    def __init__(
        self, count: int, attempt: Attempt, divides: bool, clock: Callable[[], float]
    ) -> None:
        self.answers: list[Answer] = [Answer()] * count
        self.divides = divides
        self.has_failed = False
        """In such a way that fewer requests at once might do."""
        self.shortages = 0
        self.too_many = count + 1
        """The fewest requests that did not fit into memory."""
        self.fitted: list[int] = []
        self._attempt = attempt
        self._clock = clock
        self._ends = 0.0
        self._has_hog = False
        self._parts: list[tuple[int, int, Answer | None]] = []
        """The next one last; with the answer to its requests if it is not tried."""

    @property
    def most(self) -> int:
        """The most requests that fit into memory, as far as it has run out here; else 0.

        One that does not even fit alone is to blame for what did not fit with it.
        """
        if not self.shortages or self._has_hog:
            return 0
        return max((count for count in self.fitted if count < self.too_many), default=0)

    def slice(self, most: int, ends: float) -> None:
        """Have at most ``most`` requests worked on at once."""
        self._ends = ends
        count = len(self.answers)
        starts = range(0, count, most)
        self._parts = [(first, min(first + most, count), None) for first in reversed(starts)]
        self._run()

    def divide(self, failure: Failure, ends: float) -> None:
        """The whole batch has failed: go on with its parts."""
        self._ends = ends
        self._failed(0, len(self.answers), failure)
        self._run()

    def _run(self) -> None:
        while self._parts:
            first, last, known = self._parts.pop()
            most = self.most
            if most and last - first > most:
                self._parts.append((first + most, last, known))
                last = first + most
            if known is not None and self._clock() >= self._ends:
                self.answers[first:last] = [known] * (last - first)
                continue
            outcome = self._attempt(first, last)
            if isinstance(outcome, Failure):
                self._failed(first, last, outcome)
            else:
                self.answers[first:last] = outcome
                self.fitted.append(last - first)

    def _failed(self, first: int, last: int, failure: Failure) -> None:
        count, answer = last - first, failure.answer
        self.has_failed |= failure.next is Next.DIVIDE
        if failure.lacks_memory:
            self.shortages += 1
            self.too_many = min(self.too_many, count)
            self._has_hog |= count == 1
        if failure.next is Next.LEAVE:
            # Those that were to be tried again have their failure; the others share this one.
            for start, end, known in self._parts:
                self.answers[start:end] = [known or answer] * (end - start)
            self._parts = []
        if count == 1 or not self.divides or failure.next is not Next.DIVIDE:
            self.answers[first:last] = [answer] * count
            return
        middle = first + (count + 1) // 2
        self._parts += [(middle, last, answer), (first, middle, answer)]
