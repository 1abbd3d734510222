"""What became of the requests of a load."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from .answers import Answer

_LONGEST_MESSAGE = 300


@dataclass
class Kind:
    """Requests that became the same; ``message`` is what was said the first time."""

    count: int = 0
    message: str = ""
    latencies: Histogram = field(default_factory=Histogram)


class Tally:
    """Counts what is due from ``first`` on; rates are those of answers from then until ``last``."""

    def __init__(self, is_expected: Callable[[int], bool], first: float, last: float) -> None:
        self.first, self.last = first, last
        self.sent = 0
        self.good = 0
        """Expected answers that came between the two, whenever they were due."""
        self.received = self.sent_bytes = 0
        self.latencies = Histogram()
        """Of expected answers."""
        self.first_chunks = Histogram()
        self.lateness = Histogram()
        self.statuses: dict[int, Kind] = defaultdict(Kind)
        """Answers that were not expected."""
        self.failures: dict[str, Kind] = defaultdict(Kind)
        """Requests without an answer."""
        self.has_answers = False
        self._is_expected = [is_expected(status) for status in range(600)]

    def send(self, due: float, size: int) -> bool:
        """A request of so many bytes goes out; whether it counts."""
        if due < self.first:
            return False
        self.sent += 1
        self.sent_bytes += size
        return True

    def answer(self, answer: Answer, due: float, now: float, first_chunk: float) -> None:
        """It came now to what was due then; the first of it at ``first_chunk``."""
        self.has_answers = True
        is_expected = self._is_expected[answer.status]
        if self.first <= now <= self.last:
            self.good += is_expected
            self.received += answer.size
        if due < self.first:
            return
        if is_expected:
            self.latencies.add(now - due)
            if answer.is_chunked:
                self.first_chunks.add(first_chunk - due)
            return
        kind = self.statuses[answer.status]
        kind.count += 1
        kind.latencies.add(now - due)
        kind.message = kind.message or message_of(answer)

    def fail(self, what: str, message: str, due: float) -> None:
        """No answer came to what was due then."""
        if due >= self.first:
            kind = self.failures[what]
            kind.count += 1
            kind.message = kind.message or message

    def close(self, now: float) -> None:
        """Nothing is sent from now on."""
        self.last = max(self.first, min(self.last, now))

    @property
    def errors(self) -> int:
        """Requests without the answer that was expected."""
        kinds = (*self.statuses.values(), *self.failures.values())
        return sum(kind.count for kind in kinds)

    def seconds(self, now: float = math.inf) -> float:
        """How long it has counted until now."""
        return max(0.0, min(now, self.last) - self.first)


def message_of(answer: Answer) -> str:
    """What an error says, on one line: the message of TorchServe's envelope if it is one."""
    text = answer.body.decode(errors="replace")
    try:
        envelope = json.loads(text)
        text = str(envelope["message"])
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:_LONGEST_MESSAGE]
