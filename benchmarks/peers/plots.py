"""The figures as pictures, drawn by a process of its own in an environment with matplotlib.

    python plots.py FIGURES.json FOLDER

writes FOLDER/peers-WORKLOAD.svg and prints the names.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
# The same figures make the same file.
matplotlib.rcParams["svg.hashsalt"] = "flambeau"
from matplotlib import pyplot  # noqa: E402

_PANELS = (
    ("rate", "requests/s"),
    ("p99", "p99 ms"),
    ("cpu", "CPU s per 1,000 requests"),
)


def draw(samples: list[dict[str, Any]], workload: str, path: Path) -> None:
    """Requests, latency and CPU time over connections; a line for each server."""
    figure, panels = pyplot.subplots(1, len(_PANELS), figsize=(13, 4))
    for panel, (what, title) in zip(panels, _PANELS, strict=True):
        lines: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for each in samples:
            if (each["workload"], each["what"]) == (workload, what) and each["at"].isdigit():
                lines[each["server"]][int(each["at"])].append(each["value"])
        for server, points in sorted(lines.items()):
            xs = sorted(points)
            middle = [statistics.median(points[x]) for x in xs]
            low, high = ([f(points[x]) for x in xs] for f in (min, max))
            width = 2.5 if server == "flambeau" else 1.2
            (line,) = panel.plot(xs, middle, marker="o", label=server, linewidth=width)
            panel.fill_between(xs, low, high, color=line.get_color(), alpha=0.15)
        panel.set(xscale="log", yscale="log", xlabel="connections", title=f"{workload}: {title}")
    panels[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> int:
    samples = json.loads(Path(sys.argv[1]).read_text())["samples"]
    for workload in dict.fromkeys(each["workload"] for each in samples):
        path = Path(sys.argv[2]) / f"peers-{workload}.svg"
        draw(samples, workload, path)
        print(path.name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
