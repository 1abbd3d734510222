"""The figures of all servers as Markdown."""

from __future__ import annotations

import datetime
import os
import statistics
from typing import TYPE_CHECKING

from peers.goals import goals
from peers.results import OWN
from peers.sizes import STREAM
from peers.windows import LOOP_AT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from peers.results import Results
    from peers.windows import Sample

BEGIN = "<!-- peers: begin (written by benchmarks/bench_peers.py --write) -->"
END = "<!-- peers: end -->"
_UNITS = {
    "rate": ("requests/s", 0),
    "p50": ("p50 ms", 2),
    "p99": ("p99 ms", 2),
    "first p50": ("p50 ms until the first piece", 2),
    "first p99": ("p99 ms until the first piece", 2),
    "cpu": ("CPU s of all processes per 1,000 requests", 2),
}
_FOOTPRINT = {
    "start": ("s to the first answer", 1),
    "processes": ("processes", 0),
    "idle PSS": ("PSS MB, idle", 0),
    "loaded PSS": ("PSS MB after the load", 0),
    "scale-up": ("s from 1 worker to 2", 2),
}
_OPEN = {
    "offered": ("offered/s", 0),
    "answered": ("answered/s", 0),
    "p50": ("p50 ms", 2),
    "p99": ("p99 ms", 2),
    "refused": ("refused", 0),
}
_OPEN_LOADS = ("half", "twice")


def markdown(results: Results) -> str:
    """The whole report."""
    blocks = [_introduction(results)]
    promised = goals(results)
    measured = [goal for goal in promised if goal.values]
    met = sum(goal.is_met for goal in measured)
    blocks += [
        f"**{met} of {len(measured)} goals met, {len(promised) - len(measured)} not measured.**"
    ]
    rows = [goal.row() for goal in promised]
    blocks += [_table(["the worst decides", "median", "range", "goal", ""], rows)]
    for workload in results.workloads():
        blocks += [f"### {workload}", *_workload(results, workload)]
    blocks += ["### Start, memory, scaling", _footprint(results)]
    blocks += ["### What failed", "\n".join(f"- {each}" for each in results.problems) or "Nothing."]
    return "\n\n".join(blocks)


def _introduction(results: Results) -> str:
    rounds = len({each.number for each in results.samples})
    ceilings = ", ".join(
        f"{name} {rate:,.0f}/s" for name, rate in results.ceilings.items() if name != STREAM
    )
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    busy, idle = (
        [each.value for each in results.samples if each.what == what]
        for what in ("other work", "others")
    )
    today = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}"
    return (
        f"{today}: {os.cpu_count()} cores, of which "
        f"other work took {_spread(busy, 2) or 'none'}, and the servers that were not asked "
        f"{_spread(idle, 2) or 'none'}. {versions}. Load by {results.tool}, of "
        f"streams by flambeau bench. Rounds: {rounds}. One worker, one thread each. Median (range) "
        f"of the rounds. Called in a loop without a server at the beginning: {ceilings}."
    )


def _workload(results: Results, workload: str) -> list[str]:
    blocks = []
    connections = results.connections(workload)
    for what, (unit, digits) in _UNITS.items():
        columns = [(what, at, at, digits) for at in connections]
        table = _figures(results, workload, columns)
        blocks += [f"{workload}: {unit}, by connections", table] if table else []
        if what == "rate":
            blocks += [
                "flambeau's requests/s / the server's, within each round",
                _ratios(results, workload),
            ]
    if loops := results.of(OWN, workload, "loop", str(LOOP_AT)).values():
        blocks += [f"In a loop, beside flambeau's windows: {_spread(loops, 1)}/s."]
    if any(each.value for each in results.samples if _is_error(each, workload)):
        columns = [("errors", at, at, 0) for at in connections]
        blocks += [f"{workload}: answers that failed", _figures(results, workload, columns)]
    for at in _OPEN_LOADS:
        columns = [(what, at, unit, digits) for what, (unit, digits) in _OPEN.items()]
        table = _figures(results, workload, columns)
        if table:
            blocks += [f"{workload}: open loop at {at} the capacity", table]
    return blocks


def _is_error(sample: Sample, workload: str) -> bool:
    return (sample.what, sample.workload) == ("errors", workload)


def _footprint(results: Results) -> str:
    rows = []
    for workload in results.workloads():
        for server in results.servers():
            figures = [results.of(server, workload, what).values() for what in _FOOTPRINT]
            digits = [each for _, each in _FOOTPRINT.values()]
            cells = [_spread(*each) for each in zip(figures, digits, strict=True)]
            if any(cells):
                rows.append([workload, server, *cells])
    return _table(["workload", "server", *(title for title, _ in _FOOTPRINT.values())], rows)


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
                for at in results.connections(workload)
            ),
        ]
        for server in results.servers()
        if server != OWN
    ]
    return _table(["server", *results.connections(workload)], rows)


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
