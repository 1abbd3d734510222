"""Metrics that a handler prints: lines in TorchServe's form on the worker's stdout or stderr.

``[METRICS]<name>.<unit>:<value>|#<dimension>:<value>,...|#type:<TYPE>|#hostname:<host>,<epoch>``,
then perhaps a comma and the ids of requests. The type may be missing, as it is in what was written
before there was one; the host is always this one. As in TorchServe such a line is no line of the
log, and one that begins like it and goes on otherwise is an error there.
"""

from __future__ import annotations

import re
from typing import Any

METRICS_MARK = "[METRICS]"
_LINE = re.compile(
    r"\[METRICS\](?P<name>[\w\s]+)\.(?P<unit>[\w\s]+):(?P<value>[-+0-9.e]+)\|#(?P<dimensions>[^|]*)"
    r"(?:\|#type:(?P<kind>[^|,]+))?\|#hostname:[^|,]+,\d+(?:,(?P<request>.*))?",
    re.ASCII,
)
_KINDS = frozenset({"counter", "gauge", "histogram"})


def parse_metric_line(line: str) -> list[Any] | None:
    """The sample in ``line``, as workers send them; None if it is none.

    Without a type that there is, what is counted is a counter and anything else a gauge.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    try:
        value = float(found["value"])
    except ValueError:
        return None
    kind = (found["kind"] or "").lower()
    if kind not in _KINDS:
        kind = "counter" if found["unit"].lower() == "count" else "gauge"
    dimensions = _dimensions(found["dimensions"])
    return [found["name"], kind, found["unit"], value, dimensions, found["request"] or ""]


def _dimensions(text: str) -> list[list[str]]:
    """A comma in a value is taken for one of the value where no name follows it."""
    dimensions: list[list[str]] = []
    for part in text.split(",") if text else ():
        name, colon, value = part.partition(":")
        if colon:
            dimensions.append([name, value])
        elif dimensions:
            dimensions[-1][1] += f",{part}"
    return dimensions
