"""Adaptive batching against fixed waits and an oracle, in simulation: no server, no clock.

    python benchmarks/batching.py [--requests N] [--seed N] [--only TEXT]

Prints a Markdown table. The same arguments give the same figures, whatever else the machine does.
The oracle knows the workload: it has tried every policy of ``GRID`` on these very requests, and
takes the one with the least p99 of those that answer nearly as much as the best does.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from simulation import Outcome, Policy, simulate
from workloads import LARGEST, workloads

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simulation import Workload

ADAPTIVE = Policy(LARGEST, adaptive=True)
ONE = Policy(1, 0.0)
DELAYS = (0.0, 0.001, 0.002, 0.005, 0.020)
SHOWN = (0.0, 0.005, 0.020, 0.100)
FIXED = {delay: Policy(LARGEST, delay) for delay in SHOWN}
GRID = [
    ONE,
    *(Policy(size, delay) for size in (2, 4, 6, LARGEST) for delay in DELAYS),
    *(Policy(LARGEST, delay, enough=n) for n in (2, 4) for delay in DELAYS[1:4]),
]
NEARLY = 0.95
"""The part of the most that can be answered that the oracle has to answer."""
GOAL = 0.10
"""By how much adaptive may be worse than the oracle."""
HEADER = (
    "workload",
    "oracle",
    "its p99 ms",
    "adaptive: p99",
    "answered/s",
    *(f"fixed {delay * 1000:g} ms" for delay in SHOWN),
    "batch size 1",
)


@dataclass(frozen=True)
class Comparison:
    """What became of one workload."""

    name: str
    oracle: Policy
    best: Outcome
    most_per_second: float
    adaptive: Outcome
    others: dict[Policy, Outcome]

    @property
    def p99(self) -> float:
        """Adaptive's to the oracle's."""
        return self.adaptive.p99 / self.best.p99

    @property
    def per_second(self) -> float:
        """What adaptive answers, to the most of all policies."""
        return self.adaptive.per_second / self.most_per_second

    @property
    def is_near(self) -> bool:
        return self.p99 <= 1 + GOAL and self.per_second >= 1 - GOAL

    def row(self) -> list[str]:
        worse = [self.others[policy].p99 / self.best.p99 for policy in _shown()]
        return [
            self.name if self.is_near else f"**{self.name}**",
            _describe(self.oracle),
            f"{self.best.p99 * 1000:.1f}",
            f"{self.p99:.2f}",
            f"{self.per_second:.3f}",
            *(f"{ratio:.2f}" if ratio < 10 else f"{min(ratio, 999):.0f}" for ratio in worse),
        ]


def _shown() -> list[Policy]:
    return [*FIXED.values(), ONE]


def _describe(policy: Policy) -> str:
    text = f"{policy.batch_size}, {policy.delay * 1000:g} ms"
    return text if policy.enough is None else f"{text}, enough {policy.enough}"


def compare(workload: Workload, grid: Sequence[Policy] = GRID) -> Comparison:
    """Let every policy of ``grid``, those that are shown, and adaptive serve ``workload``."""
    outcomes = {policy: simulate(workload, policy) for policy in dict.fromkeys([*grid, *_shown()])}
    most = max(outcome.per_second for outcome in outcomes.values())
    able = [policy for policy, made in outcomes.items() if made.per_second >= NEARLY * most]
    oracle = min(able, key=lambda policy: outcomes[policy].p99)
    others = {policy: outcomes[policy] for policy in _shown()}
    adaptive = simulate(workload, ADAPTIVE)
    return Comparison(workload.name, oracle, outcomes[oracle], most, adaptive, others)


def _compare_number(number: int, requests: int, seed: int) -> Comparison:
    return compare(workloads(requests, seed)[number])


def report(comparisons: Iterable[Comparison]) -> str:
    """The table, and how many are near enough."""
    done = list(comparisons)
    rows = [list(HEADER), ["---", "---", *["---:"] * (len(HEADER) - 2)]]
    rows += [each.row() for each in done]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    near = sum(each.is_near for each in done)
    worst = max(done, key=lambda each: each.p99)
    least = min(done, key=lambda each: each.per_second)
    return (
        f"{table}\n\nAdaptive is within {GOAL:.0%} of the oracle's p99 and of the most that any "
        f"policy answers in {near} of {len(done)} workloads. Its worst p99 is {worst.p99:.2f} of "
        f"the oracle's ({worst.name}), the least that it answers {least.per_second:.3f} "
        f"({least.name})."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="per workload")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="workloads whose name has this in it")
    asked = parser.parse_args()
    # Workloads hold functions, so each process makes its own.
    named = [each.name for each in workloads(100, asked.seed)]
    numbers = [number for number, name in enumerate(named) if asked.only in name]
    if not numbers:
        parser.error(f"no workload has {asked.only!r} in its name")
    compare_one = partial(_compare_number, requests=asked.requests, seed=asked.seed)
    with ProcessPoolExecutor(min(len(numbers), os.cpu_count() or 1)) as pool:
        print(report(pool.map(compare_one, numbers)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
