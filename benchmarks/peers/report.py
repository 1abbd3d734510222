"""The figures of all servers as Markdown."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from report import Goal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from peers.windows import Sample

OWN = "flambeau"
BEGIN = "<!-- peers: begin (written by benchmarks/bench_peers.py --write) -->"
END = "<!-- peers: end -->"
_UNITS = {
    "rate": ("requests/s", 0),
    "p50": ("p50 ms", 2),
    "p99": ("p99 ms", 2),
    "cpu": ("CPU s of all processes per 1,000 requests", 2),
}
_FOOTPRINT = {
    "start": ("s to the first answer", 1),
    "processes": ("processes", 0),
    "idle PSS": ("PSS MB, idle", 0),
    "loaded PSS": ("PSS MB after the load", 0),
    "other work": ("cores busy with other work", 2),
}
_OPEN = {
    "offered": ("offered/s", 0),
    "answered": ("answered/s", 0),
    "p50": ("p50 ms", 2),
    "p99": ("p99 ms", 2),
    "refused": ("refused", 0),
}
_OPEN_LOADS = ("half", "twice")


@dataclass
class Results:
    """Everything that one run has measured. ``ceilings``: per second without a server."""

    tool: str
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)

    def of(self, server: str, workload: str, what: str, at: str = "") -> dict[int, float]:
        """The figures by round."""
        return {
            each.number: each.value
            for each in self.samples
            if (each.server, each.workload, each.what, each.at) == (server, workload, what, at)
        }

    def ratios(self, one: str, two: str, workload: str, what: str, at: str) -> list[float]:
        """One server's figure by another's, round by round."""
        above, below = self.of(one, workload, what, at), self.of(two, workload, what, at)
        return [above[each] / below[each] for each in sorted({*above} & {*below}) if below[each]]

    def servers(self) -> list[str]:
        return list(dict.fromkeys(sorted((each.server for each in self.samples), key=_own_first)))

    def workloads(self) -> list[str]:
        return list(dict.fromkeys(each.workload for each in self.samples))

    def connections(self) -> list[str]:
        found = {int(each.at) for each in self.samples if each.what == "rate"}
        return [str(each) for each in sorted(found)]


def _own_first(server: str) -> tuple[bool, str]:
    return server != OWN, server


def goals(results: Results) -> list[Goal]:
    """What flambeau promises beside the others, with what was measured."""
    found = []
    for workload in results.workloads():
        for at in (each for each in results.connections() if int(each) >= 8):
            for what, name, is_rate in (
                ("rate", "requests/s", True),
                ("p99", "p99", False),
                ("cpu", "CPU", False),
            ):
                found += _ahead(results, workload, what, name, at, is_rate)
    return [*found, *_own_goals(results)]


def _ahead(
    results: Results, workload: str, what: str, name: str, at: str, is_rate: bool
) -> list[Goal]:
    """Beside the best of the others in the same figure; nothing if there is none."""
    others = {
        server: results.ratios(OWN, server, workload, what, at)
        for server in results.servers()
        if server != OWN
    }
    others = {server: values for server, values in others.items() if values}
    if not others:
        return []
    nearest = (min if is_rate else max)(others, key=lambda each: statistics.median(others[each]))
    label = f"{workload}, {at} connections: {name} / that of {nearest}, the best"
    return [Goal(label, others[nearest], "", 1.0, is_rate)]


def _own_goals(results: Results) -> list[Goal]:
    found = []
    for at in ("8", "32"):
        if values := results.ratios(OWN, "torchserve", "echo", "rate", at):
            label = f"echo, {at} connections: requests/s / TorchServe's"
            found.append(Goal(label, values, "", 6.0, True))
    if values := list(results.of(OWN, "conv", "rate", "32").values()):
        ceiling = results.ceilings["conv"]
        label = "conv, 32 connections: served / in a loop before"
        found.append(Goal(label, [each / ceiling for each in values], "", 0.93, True))
    for workload in results.workloads():
        rates = results.of(OWN, workload, "rate", "512")
        p50 = results.of(OWN, workload, "p50", "512")
        ideals = [p50[each] / (512_000 / rates[each]) for each in rates]
        if ideals:
            label = f"{workload}, 512 connections: p50 / (512 / throughput)"
            found.append(Goal(label, ideals, "", 1.3))
    return found


def markdown(results: Results) -> str:
    """The whole report."""
    promised = goals(results)
    met = sum(goal.is_met for goal in promised)
    blocks = [_introduction(results)]
    if promised:
        rows = [goal.row() for goal in promised]
        blocks += [f"**{met} of {len(promised)} goals met.**"]
        blocks += [_table(["", "median", "range", "goal", ""], rows)]
    for workload in results.workloads():
        blocks += [f"### {workload}", *_workload(results, workload)]
    blocks += ["### What failed", "\n".join(f"- {each}" for each in results.problems) or "Nothing."]
    return "\n\n".join(blocks)


def _introduction(results: Results) -> str:
    rounds = len({each.number for each in results.samples})
    ceilings = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in results.ceilings.items())
    return (
        f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}: {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, load by {results.tool}, rounds: {rounds}. One worker, one "
        f"thread each. Median (range) of the rounds. Called in a loop without a server: {ceilings}."
    )


def _workload(results: Results, workload: str) -> list[str]:
    blocks = []
    for what, (unit, digits) in _UNITS.items():
        columns = [(what, at, at, digits) for at in results.connections()]
        blocks += [f"{workload}: {unit}, by connections", _figures(results, workload, columns)]
        if what == "rate":
            blocks += [
                "flambeau's requests/s / the server's, within each round",
                _ratios(results, workload),
            ]
    for at in _OPEN_LOADS:
        columns = [(what, at, unit, digits) for what, (unit, digits) in _OPEN.items()]
        table = _figures(results, workload, columns)
        if table:
            blocks += [f"{workload}: open loop at {at} the capacity", table]
    columns = [(what, "", unit, digits) for what, (unit, digits) in _FOOTPRINT.items()]
    return [*blocks, f"{workload}: start and memory", _figures(results, workload, columns)]


def _figures(results: Results, workload: str, columns: list[tuple[str, str, str, int]]) -> str:
    """A row for each server. Columns: what, at, title, digits. Empty if there is no figure."""
    rows = []
    for server in results.servers():
        cells = [
            _spread(results.of(server, workload, what, at).values(), digits)
            for what, at, _, digits in columns
        ]
        if any(cells):
            rows.append([server, *cells])
    return _table(["server", *(title for _, _, title, _ in columns)], rows) if rows else ""


def _ratios(results: Results, workload: str) -> str:
    rows = [
        [
            server,
            *(
                _spread(results.ratios(OWN, server, workload, "rate", at), 2)
                for at in results.connections()
            ),
        ]
        for server in results.servers()
        if server != OWN
    ]
    return _table(["server", *results.connections()], rows)


def _spread(values: Iterable[float], digits: int) -> str:
    found = sorted(values)
    if not found:
        return ""
    middle = f"{statistics.median(found):,.{digits}f}"
    if len(found) == 1:
        return middle
    return f"{middle} ({found[0]:,.{digits}f}–{found[-1]:,.{digits}f})"


def put(report: str, page: Path) -> None:
    """Put the report between the two marks of ``page``; ValueError if they are not there."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks between which the figures go.")
    page.write_text(f"{before}{begin}\n\n{report}\n\n{end}{after}")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
