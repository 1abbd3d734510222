"""What came of a run, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chaos.ledger import Ledger

MORE_DESCRIPTORS = 16
"""How many more the server may have at the end: a log that was rotated, a worker more or less."""


@dataclass
class Report:
    """One run. ``left``: what should not be there any more, or is not as it was."""

    requests: int
    seed: int
    ledger: Ledger = field(default_factory=Ledger)
    seconds: float = 0.0
    seconds_to_recover: float = 0.0
    seconds_to_stop: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    impossible: dict[str, str] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def gained_descriptors(self) -> int:
        """How many more the server has than before."""
        return self.after.get("descriptors", 0) - self.before.get("descriptors", 0)

    @property
    def problems(self) -> list[str]:
        """Everything that should not be."""
        found = [*self.ledger.wrong, *self.left]
        if self.ledger.total != self.requests:
            found.append(f"{self.requests} were asked and {self.ledger.total} have an outcome")
        more = self.gained_descriptors
        if more > MORE_DESCRIPTORS:
            found.append(f"the server has {more} descriptors more than before")
        return found

    @property
    def is_good(self) -> bool:
        return not self.problems

    def fields(self) -> dict[str, Any]:
        """All figures."""
        return {
            "requests": self.requests,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "requests_per_second": round(self.requests / self.seconds) if self.seconds else None,
            "outcomes": {
                model: dict(counts.most_common())
                for model, counts in sorted(self.ledger.outcomes.items())
            },
            "faults": dict(self.ledger.faults.most_common()),
            "impossible": self.impossible,
            "longest_until_a_death_was_seen": round(max(self.recoveries, default=0.0), 3),
            "seconds_to_recover": round(self.seconds_to_recover, 1),
            "seconds_to_stop": round(self.seconds_to_stop, 1),
            "server_before": self.before,
            "server_after": self.after,
            "problems": self.problems,
        }

    def json(self) -> str:
        return json.dumps(self.fields(), indent=2) + "\n"

    def text(self) -> str:
        """A page to read."""
        fields = self.fields()
        total: Counter[str] = sum(self.ledger.outcomes.values(), Counter())
        lines = [
            f"{self.requests} requests in {self.seconds:.0f} s "
            f"({fields['requests_per_second']} per second), seed {self.seed}",
            "",
            "outcome" + " " * 43 + "requests",
            *(f"{what:<48}{count:>10}" for what, count in total.most_common()),
            "",
            "fault" + " " * 47 + "times",
            *(f"{what:<48}{count:>10}" for what, count in self.ledger.faults.most_common()),
            *(f"not possible here: {what}: {why}" for what, why in self.impossible.items()),
            "",
            f"a death was seen after {fields['longest_until_a_death_was_seen']} s at most, "
            f"of {len(self.recoveries)} that were looked for",
            f"all workers were back {self.seconds_to_recover:.1f} s after the last fault; "
            f"the server stopped in {self.seconds_to_stop:.1f} s",
            f"the server before: {self.before}, after: {self.after}",
            "",
            *(f"PROBLEM: {problem}" for problem in self.problems),
            "nothing is wrong" if self.is_good else f"{len(self.problems)} problems",
        ]
        return "\n".join(lines)
