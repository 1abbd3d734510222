"""What flambeau promises beside others: for each goal the worst figure of all decides."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from report import Goal

from peers.results import OWN
from peers.windows import LOOP_AT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peers.results import Results

_REAL = ("mlp", "conv", "encoder")
_MANY = "512"
_LARGE = "body-16mb"
_LARGE_GB = 16e6 / 1e9
_AHEAD = {"rate": "requests/s", "p99": "p99", "cpu": "CPU per request"}


def goals(results: Results) -> list[Goal]:
    """One each. Where nothing was measured its values are empty."""
    others = [server for server in results.servers() if server != OWN]
    every = results.workloads()
    found = [
        _beside(results, f"{name} / that of every other", what, every, others)
        for what, name in _AHEAD.items()
    ]
    rate = "rate"
    found += [
        _beside(results, "requests/s / TorchServe's", rate, ["echo"], ["torchserve"], 6.0),
        _beside(results, "requests/s / mosec's", rate, ["echo"], ["mosec"]),
        _beside(results, "real models: requests/s / mosec's", rate, _REAL, ["mosec"]),
        _served_by_loop(results),
        *_at_many(results),
        _large_bodies(results),
    ]
    return found


def _worst(name: str, figures: dict[str, list[float]], limit: float, at_least: bool) -> Goal:
    """The goal for that of ``figures`` which is furthest from it."""
    figures = {label: values for label, values in figures.items() if values}
    if not figures:
        return Goal(name, [], "", limit, at_least)
    middle = {label: statistics.median(values) for label, values in figures.items()}
    worst = (min if at_least else max)(middle, key=lambda label: middle[label])
    return Goal(f"{name}; worst: {worst}", figures[worst], "", limit, at_least)


def _beside(
    results: Results,
    name: str,
    what: str,
    workloads: Iterable[str],
    others: list[str],
    limit: float = 1.0,
) -> Goal:
    """At 8 connections and more. What the other has a figure for and we have not is lost."""
    is_rate = what == "rate"
    figures = {}
    for workload in workloads:
        for at in (each for each in results.connections(workload) if int(each) >= 8):
            for other in others:
                ratios = results.ratios(OWN, other, workload, what, at)
                if not ratios and results.of(other, workload, what, at):
                    ratios = [0.0 if is_rate else math.inf]
                figures[f"{workload}, {at} connections, {other}"] = ratios
    return _worst(f"{name}, 8 connections and more", figures, limit, is_rate)


def _served_by_loop(results: Results) -> Goal:
    at = str(LOOP_AT)
    rates, loops = (results.of(OWN, "conv", what, at) for what in ("rate", "loop"))
    values = [rates[each] / loops[each] for each in rates if each in loops]
    return Goal(f"conv, {at} connections: served / in a loop", values, "", 0.93, True)


def _at_many(results: Results) -> list[Goal]:
    """Errors, and the p50 beside that of a queue in which nobody is overtaken."""
    errors, queues = {}, {}
    for workload in results.workloads():
        rates = results.of(OWN, workload, "rate", _MANY)
        p50 = results.of(OWN, workload, "p50", _MANY)
        errors[workload] = list(results.of(OWN, workload, "errors", _MANY).values())
        queues[workload] = [
            p50[each] / (int(_MANY) * 1000 / rates[each]) for each in rates if each in p50
        ]
    return [
        _worst(f"{_MANY} connections: errors", errors, 1.0, at_least=False),
        _worst(f"{_MANY} connections: p50 / ({_MANY} / throughput)", queues, 1.3, at_least=False),
    ]


def _large_bodies(results: Results) -> Goal:
    """Throughput is that of the number of connections which brings most."""
    figures = {
        at: [rate * _LARGE_GB for rate in results.of(OWN, _LARGE, "rate", at).values()]
        for at in results.connections(_LARGE)
    }
    figures = {at: values for at, values in figures.items() if values}
    if not figures:
        return Goal("bodies of 16 MB", [], "GB/s", 1.0, True)
    best = max(figures, key=lambda at: statistics.median(figures[at]))
    return Goal(f"bodies of 16 MB, {best} connections", figures[best], "GB/s", 1.0, True)
