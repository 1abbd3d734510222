"""The figures as Markdown."""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conv import ConvResult
    from echo import EchoResult
    from footprint import FootprintResult
    from load import Window

BEGIN = "<!-- figures: begin (written by benchmarks/run.py --write) -->"
END = "<!-- figures: end -->"


@dataclass
class Results:
    """Everything that one run has measured. ``other_work``: cores, by part of the run."""

    tool: str
    other_work: dict[str, float]
    echo: EchoResult
    conv: ConvResult
    footprint: FootprintResult


@dataclass(frozen=True)
class Goal:
    """A promise about the median of ``values``. None of them: it was not measured."""

    what: str
    values: Sequence[float]
    unit: str
    limit: float
    at_least: bool = False
    digits: int = 2

    @property
    def is_met(self) -> bool:
        """Whether the median, as it was measured and not as it is shown, keeps the promise."""
        median = statistics.median(self.values)
        return median >= self.limit if self.at_least else median < self.limit

    def row(self) -> list[str]:
        goal = f"{'at least' if self.at_least else 'under'} {self._shown(self.limit)}"
        if not self.values:
            return [self.what, "-", "-", goal, "not measured"]
        median = statistics.median(self.values)
        verdict = "met" if self.is_met else "**not met**"
        return [self.what, self._shown(median), self._range(), goal, verdict]

    def _shown(self, value: float) -> str:
        return f"{value:,.{self.digits}f} {self.unit}".strip()

    def _range(self) -> str:
        if len(self.values) == 1:
            return "one window"
        return f"{min(self.values):,.{self.digits}f} to {max(self.values):,.{self.digits}f}"


def goals(results: Results) -> list[Goal]:
    """What flambeau promises, with what was measured."""
    conv, footprint = results.conv, results.footprint
    return [
        *_echo_goals(results.echo),
        Goal(
            "conv, 32 connections: served / in a loop",
            [one.rate / two for one, two in zip(conv.served, conv.loop, strict=True)],
            "",
            0.90,
            True,
        ),
        Goal(
            "conv, 1 connection: p50 with batch size 8 minus p50 with 1",
            [a.p50_ms - b.p50_ms for a, b in zip(conv.adaptive, conv.single, strict=True)],
            "ms",
            1.0,
        ),
        Goal("frontend's memory after the load (RSS)", [footprint.rss_mb], "MB", 80, digits=1),
        Goal("`flambeau start` with digits until ready", footprint.start_seconds, "s", 4),
        Goal(
            "idle CPU of all processes, of one core",
            [share * 100 for share in footprint.idle],
            "%",
            1,
        ),
    ]


def _echo_goals(echo: EchoResult) -> list[Goal]:
    """The absolute figures were chosen where TorchServe made 2,300 requests/s and a p50 of 0.6 ms.

    Beside TorchServe the same two promises are ratios: 8,000 / 2,300 and 0.4 / 0.6.
    """
    promised = [
        Goal("echo, 1 connection: p50", _p50(echo.flambeau[1]), "ms", 0.4),
        Goal("echo, 32 connections", _rates(echo.flambeau[32]), "requests/s", 8000, True, digits=0),
    ]
    if echo.torchserve:
        _, p50 = _beside(echo, 1)
        rate, _ = _beside(echo, 32)
        promised += [
            Goal("echo, 1 connection: p50 / TorchServe's", p50, "", 0.67),
            Goal("echo, 32 connections: requests/s / TorchServe's", rate, "", 3.5, True),
        ]
    return promised


def _beside(echo: EchoResult, connections: int) -> tuple[list[float], list[float]]:
    """Flambeau's requests/s and p50 divided by TorchServe's, round by round."""
    pairs = list(zip(echo.flambeau[connections], echo.torchserve[connections], strict=True))
    return [a.rate / b.rate for a, b in pairs], [a.p50_ms / b.p50_ms for a, b in pairs]


def markdown(results: Results) -> str:
    """The whole report."""
    promised = goals(results)
    missed = [goal for goal in promised if goal.values and not goal.is_met]
    verdict = f"**{len(missed)} of {len(promised)} goals not met.**" if missed else ""
    blocks = [
        _machine(results),
        _table(
            ["", "measured", "range", "goal", ""],
            [goal.row() for goal in promised],
        ),
        verdict,
        "### Echo: flambeau and a bare HTTP server in turn",
        _echo_table(results.echo),
        _wire_line(results.echo),
        "### Echo beside TorchServe" if results.echo.torchserve else "",
        _torchserve_table(results.echo) if results.echo.torchserve else "",
        "### Convolutional model: served and in a loop in turn",
        _conv_table(results.conv),
        _conv_lines(results.conv),
        "### Memory and start",
        _footprint_lines(results.footprint),
    ]
    return "\n\n".join(block for block in blocks if block)


def write(report: str, page: Path) -> None:
    """Put the report between the two marks of ``page``; ValueError if they are not there."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks between which the figures go.")
    page.write_text(f"{before}{begin}\n\n{report}\n\n{end}{after}")


def _machine(results: Results) -> str:
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "aiohttp", "pyzmq")]
    try:
        versions.append(f"uvloop {metadata.version('uvloop')}")
    except metadata.PackageNotFoundError:
        versions.append("no uvloop")
    others = ", ".join(f"{part} {cores:.2f}" for part, cores in results.other_work.items())
    return (
        f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}: {os.cpu_count()} cores "
        f"({_processor()}), Python {platform.python_version()}, {', '.join(versions)}; load by "
        f"{results.tool}. Cores busy with other work: {others}. Each value is the median of its "
        "windows."
    )


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def _echo_table(echo: EchoResult) -> str:
    rows = []
    for connections, windows in echo.flambeau.items():
        bare = echo.constant[connections]
        ratios = [one.rate / two.rate for one, two in zip(windows, bare, strict=True)]
        rows.append(
            [
                str(connections),
                f"{_median(_rates(windows)):,.0f}",
                f"{_median(_p50(windows)):.2f}",
                f"{_median(each.p99_ms for each in windows):.2f}",
                f"{_median(each.cpu_ms['frontend'] for each in windows):.3f}",
                f"{_median(each.cpu_ms['worker'] for each in windows):.3f}",
                f"{_median(_rates(bare)):,.0f}",
                f"{_median(_p50(bare)):.2f}",
                _with_range(ratios),
            ]
        )
    return _table(
        [
            "connections",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "frontend CPU s per 1,000",
            "worker CPU s per 1,000",
            "bare aiohttp requests/s",
            "its p50 ms",
            "flambeau / bare",
        ],
        rows,
    )


def _torchserve_table(echo: EchoResult) -> str:
    rows = []
    for connections, windows in echo.torchserve.items():
        own = echo.flambeau[connections]
        rate, p50 = _beside(echo, connections)
        rows.append(
            [
                str(connections),
                f"{_median(_rates(own)):,.0f}",
                f"{_median(_rates(windows)):,.0f}",
                _with_range(rate),
                f"{_median(_p50(own)):.2f}",
                f"{_median(_p50(windows)):.2f}",
                _with_range(p50),
            ]
        )
    return _table(
        [
            "connections",
            "flambeau requests/s",
            "TorchServe requests/s",
            "ratio",
            "flambeau p50 ms",
            "TorchServe p50 ms",
            "ratio of p50",
        ],
        rows,
    )


def _wire_line(echo: EchoResult) -> str:
    rate = _median(each.rate for each in echo.wire)
    p50 = _median(each.p50_ms for each in echo.wire)
    return (
        f"A bare ZeroMQ message to another process and back: p50 {p50:.3f} ms, {rate:,.0f} round "
        "trips/s, one at a time."
    )


def _conv_table(conv: ConvResult) -> str:
    rows = [
        [
            str(number),
            f"{window.rate:.1f}",
            f"{alone:.1f}",
            f"{window.rate / alone:.3f}",
            f"{window.cpu_ms['worker']:.2f}",
            f"{window.cpu_ms['frontend']:.2f}",
            f"{1000 / alone:.2f}",
            f"{window.p50_ms:.1f}",
            f"{window.p99_ms:.1f}",
        ]
        for number, (window, alone) in enumerate(zip(conv.served, conv.loop, strict=True), 1)
    ]
    return _table(
        [
            "pair",
            "served images/s",
            "in a loop images/s",
            "ratio",
            "worker CPU ms per image",
            "frontend CPU ms per image",
            "loop ms per image",
            "p50 ms",
            "p99 ms",
        ],
        rows,
    )


def _conv_lines(conv: ConvResult) -> str:
    return (
        f"The network has {conv.blocks} residual blocks here: {conv.ms_per_image:.2f} ms per image "
        "in a batch of 8 on one core. One client alone: p50 "
        f"{_median(_p50(conv.adaptive)):.2f} ms with batch size 8 (`batching: adaptive`, "
        f"`maxBatchDelay` 20), {_median(_p50(conv.single)):.2f} ms with batch size 1."
    )


def _footprint_lines(footprint: FootprintResult) -> str:
    text = (
        f"The frontend's resident memory after the load is {footprint.rss_mb:.1f} MB "
        f"({footprint.pss_mb:.1f} MB proportional)."
    )
    if footprint.first_answer_seconds:
        text += (
            " From the start of `flambeau start` to the first answered prediction: "
            f"{_median(footprint.first_answer_seconds):.2f} s."
        )
    return text


def _rates(windows: Iterable[Window]) -> list[float]:
    return [window.rate for window in windows]


def _p50(windows: Iterable[Window]) -> list[float]:
    return [window.p50_ms for window in windows]


def _with_range(values: Sequence[float]) -> str:
    return f"{_median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
