"""Requests that come when they come, whatever became of those before: an open loop.

    python open_loop.py URL BODY CONTENT_TYPE RATE SETTLE SECONDS SEED
                        [--any-answer] [HEADER ...]

Arrivals are a Poisson process of RATE per second, made by what `flambeau bench` is made of; here
answers and refusals are looked at, too. Nothing of the first SETTLE seconds counts, in which queues
become what they are in the long run. Prints one line of JSON: counts, latencies in milliseconds,
and how late the client itself was at most. BODY is a file, or, with --any-answer, also a folder
whose files take turns. An answer is right if it is the body that was sent; with --any-answer all
are that are 200.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from flambeau.frontend.bench.answers import KEPT
from flambeau.frontend.bench.measuring import Plan, measure
from flambeau.frontend.bench.requests import Body, Requests, Target, parse_header
from flambeau.frontend.bench.tally import Tally

if TYPE_CHECKING:
    from flambeau.frontend.bench.answers import Answer
    from flambeau.frontend.bench.histogram import Histogram

_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d+)", re.IGNORECASE)
_REASON = re.compile(rb'"reason": "(\w+)"')
_REFUSALS = (429, 503)
_PATIENCE = 30.0
"""Seconds after it was due in which an answer must have come."""
_MOST_CONNECTIONS = 10_000
ANY_ANSWER = "--any-answer"


class Verdicts(Tally):
    """What became of the requests, whose answers are to be ``body``; None if any will do."""

    def __init__(self, body: bytes | None, first: float, last: float) -> None:
        super().__init__(lambda status: status == 200, first, last)
        self.wrong = 0
        self.reasons: Counter[str] = Counter()
        self.without_retry_after = 0
        self._body = None if body is None else body[:KEPT]

    def answer(self, answer: Answer, due: float, now: float, first_chunk: float) -> None:
        is_counted = due >= self.first
        if answer.status == 200 and self._body not in (None, answer.body):
            self.wrong += is_counted
            return
        if answer.status in _REFUSALS and is_counted:
            self.without_retry_after += _RETRY_AFTER.search(answer.head) is None
            reason = _REASON.search(answer.body)
            self.reasons[reason[1].decode() if reason else "none"] += 1
        super().answer(answer, due, now, first_chunk)

    def report(self, seconds: float) -> str:
        first, second = (self.statuses[status].latencies for status in _REFUSALS)
        others = {str(s): kind.count for s, kind in self.statuses.items() if s not in _REFUSALS}
        if self.wrong:
            others["wrong answers"] = self.wrong
        return json.dumps(
            {
                "seconds": seconds,
                "sent": self.sent,
                "good": self.good,
                "accepted": _summary(self.latencies),
                "refused": _summary(first.merged(second)),
                "reasons": self.reasons,
                "without_retry_after": self.without_retry_after,
                "others": others,
                "unanswered": sum(kind.count for kind in self.failures.values()),
                "client_late_ms": self.lateness.most * 1000,
            }
        )


def _summary(times: Histogram) -> dict[str, float]:
    return {
        "count": times.count,
        "p50_ms": times.quantile(0.50) * 1000,
        "p99_ms": times.quantile(0.99) * 1000,
    }


def main() -> int:
    url, place, content_type, rate, settle, seconds, seed, *headers = sys.argv[1:]
    takes_any = headers[:1] == [ANY_ANSWER]
    is_folder = takes_any and Path(place).is_dir()
    files = sorted(Path(place).iterdir()) if is_folder else [Path(place)]
    bodies = [Body(each.read_bytes(), content_type) for each in files]
    lines = [parse_header(line) for line in headers[takes_any:]]
    requests = Requests(Target.parse(url), "POST", bodies, lines)
    plan = Plan(
        _MOST_CONNECTIONS,
        float(rate),
        seed=int(seed),
        duration=float(seconds),
        warm_up=float(settle),
        timeout=_PATIENCE,
        goes_on=True,
    )
    wanted = None if takes_any else files[0].read_bytes()
    tally = measure(plan, requests, None, functools.partial(Verdicts, wanted), lambda line: None)
    print(tally.report(float(seconds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
