"""What a load has measured, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .histogram import Histogram
    from .tally import Kind, Tally

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_UNITS = ("B", "KiB", "MiB", "GiB")


@dataclass(frozen=True)
class Load:
    """What was asked for, in words that the report repeats."""

    target: str
    method: str
    shape: str


def as_json(load: Load, tally: Tally) -> dict[str, Any]:
    """All of it. Times are in milliseconds, but for ``seconds``."""
    seconds = tally.seconds()
    return {
        "url": load.target,
        "method": load.method,
        "load": load.shape,
        "seconds": seconds,
        "requests": tally.sent,
        "expected": tally.latencies.count,
        "errors": tally.errors,
        "requestsPerSecond": _rate(tally.good, seconds),
        "bytesPerSecond": _rate(tally.received, seconds),
        "bytesReceived": tally.received,
        "bytesSent": tally.sent_bytes,
        "latency": _summary(tally.latencies),
        "firstChunk": _summary(tally.first_chunks),
        "sentLate": _summary(tally.lateness),
        "statuses": {str(status): _kind(kind) for status, kind in tally.statuses.items()},
        "failures": {
            what: {"count": kind.count, "message": kind.message}
            for what, kind in tally.failures.items()
        },
        "histogram": [
            {"from": low * 1000, "to": high * 1000, "count": count}
            for low, high, count in tally.latencies.buckets()
        ],
    }


def _kind(kind: Kind) -> dict[str, Any]:
    latency = _summary(kind.latencies)
    return {"count": kind.count, "message": kind.message, "latency": latency}


def _summary(times: Histogram) -> dict[str, float] | None:
    """None where nothing was measured."""
    if not times.count:
        return None
    quantiles = {name: times.quantile(share) * 1000 for name, share in _QUANTILES.items()}
    least, mean, most = (value * 1000 for value in (times.least, times.mean, times.most))
    return {"min": least, "mean": mean, **quantiles, "max": most}


def as_text(load: Load, tally: Tally) -> str:
    """Tables in Markdown."""
    seconds = tally.seconds()
    rates = [
        ("requests", f"{tally.sent:,} in {seconds:.2f} s"),
        ("as expected", f"{tally.latencies.count:,}"),
        ("errors", f"{tally.errors:,}"),
        ("requests/s", f"{_rate(tally.good, seconds):,.1f}"),
        ("received", f"{_size(_rate(tally.received, seconds))}/s"),
    ]
    head = ("ms", "min", "mean", *_QUANTILES, "max")
    tables = [_table((f"{load.method} {load.target}", load.shape), rates)]
    times = [("latency", tally.latencies), ("first chunk", tally.first_chunks)]
    times += [(f"status {status}", kind.latencies) for status, kind in tally.statuses.items()]
    times += [("sent late", tally.lateness)]
    rows = [
        (name, *(_milliseconds(value) for value in summary.values()))
        for name, each in times
        if (summary := _summary(each)) is not None
    ]
    tables += [_table(head, rows)] if rows else []
    errors = [(str(status), kind) for status, kind in sorted(tally.statuses.items())]
    errors += sorted(tally.failures.items())
    if errors:
        said = [(what, f"{kind.count:,}", kind.message) for what, kind in errors]
        tables.append(_table(("error", "count", "the first one says"), said))
    return "\n\n".join(tables)


def progress(tally: Tally, good_before: int, now: float, since: float) -> str:
    """One line on the time since ``since``, when there were so many good answers."""
    if now < tally.first:
        return "warming up"
    times = tally.latencies
    rate = _rate(tally.good - good_before, now - since)
    return (
        f"{tally.seconds(now):4.0f} s  {rate:,.0f} requests/s"
        f"  p50 {_milliseconds(times.quantile(0.5) * 1000)} ms"
        f"  p99 {_milliseconds(times.quantile(0.99) * 1000)} ms  {tally.errors:,} errors"
    )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _milliseconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _size(count: float) -> str:
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:,.1f} {_UNITS[unit]}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column flush left, the others right but for words."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    is_text = [column == 0 or head[column].startswith("the ") for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(cells, widths, is_text, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if left else "-" * (width - 1) + ":"
        for width, left in zip(widths, is_text, strict=True)
    ]
    return "\n".join([line(lines[0]), line(rule), *map(line, lines[1:])])
