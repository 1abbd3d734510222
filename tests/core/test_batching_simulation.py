"""Adaptive batching is nearly as good as the policy that suits the workload best.

Everything is simulated (benchmarks/simulation.py): no clock, no sockets, always the same figures.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
batching, simulation, workloads = map(
    importlib.import_module, ("batching", "simulation", "workloads")
)
Policy, simulate = simulation.Policy, simulation.simulate
open_loop, closed_loop = workloads.open_loop, workloads.closed_loop

GRID = [
    *(Policy(size, 0.0) for size in (1, 2, 4, 6, 8)),
    *(Policy(size, 0.002) for size in (4, 8)),
    Policy(8, 0.002, enough=3),
]
COUNT = 1500
WORKLOADS = [
    open_loop("Poisson", "constant", 0.3, COUNT, 1),
    open_loop("Poisson", "linear", 0.6, COUNT, 1),
    open_loop("Poisson", "heavy tail", 0.95, COUNT, 1),
    open_loop("Poisson", "steep", 0.1, COUNT, 1),
    open_loop("Poisson", "steep", 0.6, COUNT, 1),
    open_loop("Poisson", "steep", 0.95, COUNT, 1),
    open_loop("clumped", "steep", 0.3, COUNT, 1),
    open_loop("on/off", "constant", 0.3, COUNT, 1),
    open_loop("clumped", "linear", 0.8, COUNT, 1),
    closed_loop(1, 0.0, "linear", COUNT, 1),
    closed_loop(8, 0.0, "constant", COUNT, 1),
    closed_loop(8, 0.0, "linear", COUNT, 1),
    closed_loop(8, 0.0, "steep", COUNT, 1),
    closed_loop(32, 0.0, "heavy tail", COUNT, 1),
    closed_loop(8, 0.02, "constant", COUNT, 1),
    closed_loop(16, 0.0, "linear", COUNT, 1, workers=4),
]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_adaptive_is_near_an_oracle(workload) -> None:
    compared = batching.compare(workload, GRID)
    assert compared.p99 <= 1.10, compared.row()
    assert compared.per_second >= 0.95, compared.row()


def test_many_workers_keep_up_with_smaller_batches() -> None:
    # A share cut by their number alone would be too small here: two thirds would be answered.
    workload = open_loop("Poisson", "linear", 0.95, COUNT, 1, workers=8)
    assert batching.compare(workload, [Policy(8, 0.0)]).per_second > 0.95


def test_the_oracle_is_not_what_a_wait_of_100_ms_makes_of_it() -> None:
    compared = batching.compare(closed_loop(4, 0.0, "linear", 1000, 1), GRID)
    fixed = compared.others[batching.FIXED[0.1]]
    assert fixed.p99 > 10 * compared.best.p99
    assert compared.best.mean_batch > 3


def test_one_worker_and_one_at_a_time_is_what_queueing_theory_says() -> None:
    # M/D/1 at half its capacity: the mean wait is half of a service time; the median is below.
    rate, seconds = 50.0, 0.010
    load = rate * workloads.constant(8) / 8
    workload = open_loop("Poisson", "constant", load, 6000, 1)
    outcome = simulate(workload, Policy(1, 0.0))
    assert outcome.per_second == pytest.approx(rate, rel=0.05)
    assert outcome.mean_batch == 1.0
    assert outcome.mean == pytest.approx(seconds * 1.5, rel=0.1)


def test_a_simulation_can_be_repeated() -> None:
    first, second = (
        simulate(open_loop("on/off", "heavy tail", 0.8, 500, 7), batching.ADAPTIVE)
        for _ in range(2)
    )
    assert first == second
    assert first != simulate(open_loop("on/off", "heavy tail", 0.8, 500, 8), batching.ADAPTIVE)
