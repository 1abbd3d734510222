"""What a handler reports, by calls and by what it prints, arrives where it should."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from real_server import RealServer, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

METRICS_YAML = """
ts_metrics: {}
model_metrics:
  counter:
    - {name: Seen, unit: Things, dimensions: [ModelName, Level]}
    - {name: Printed, unit: Count, dimensions: [ModelName]}
  gauge:
    - {name: Size, unit: MB, dimensions: [Kind]}
"""
HANDLER = """
from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.metric_type_enum import MetricTypes
from ts.service import emit_metrics

def handle(data, context):
    metrics = context.metrics
    metrics.add_counter("Seen", 1, 0)
    if data is None:
        return None
    metrics.add_counter("NotListed", 1)
    metrics.get_metric("Size", MetricTypes.GAUGE).add_or_update(7, ["big"])
    metrics.counter("own_refusals", "Refused inputs", reason="size").inc(3)
    emit_metrics([Metric("Printed", 5, "count", [Dimension("x", "m")])])
    print("[METRICS]nonsense", flush=True)
    return [context.get_request_id(0)]
"""


def served(new_server: Callable[..., RealServer], tmp_path: Path, mode: str) -> RealServer:
    path = tmp_path / "metrics.yaml"
    path.write_text(METRICS_YAML)
    server = new_server(metrics_config=path, metrics_mode=mode)
    server.environ["METRICS_LOCATION"] = str(tmp_path / "logs")
    server.store.folder("busy", {"handler.py": HANDLER})
    server.start()
    server.serve("busy")
    return server


def test_to_prometheus(new_server: Callable[..., RealServer], tmp_path: Path) -> None:
    server = served(new_server, tmp_path, "prometheus")
    # Reported while the model was loaded.
    assert server.metric("Seen", ModelName="busy", Level="Model") == 1
    server.predict("busy")
    wait_for(lambda: server.metric("Printed", ModelName="m") == 5, 10, "the printed metric")
    assert server.metric("Seen", ModelName="busy", Level="Model") == 2
    assert server.metric("Size", Kind="big") == 7
    assert server.metric("own_refusals", reason="size", model="busy", version="1.0") == 3
    text = server.request("GET", "/metrics", listener="metrics").body.decode()
    assert "# HELP own_refusals Refused inputs" in text
    assert "NotListed" not in text
    assert 'Failed to parse metrics line: "[METRICS]nonsense".' in server.log()
    assert "[METRICS]Printed" not in server.log()


def test_to_the_log(new_server: Callable[..., RealServer], tmp_path: Path) -> None:
    server = served(new_server, tmp_path, "log")
    request = server.predict("busy").body.decode()

    def logged() -> dict[str, str]:
        found = [line.partition(" - ")[2] for line in lines(tmp_path / "logs/model_metrics.log")]
        return {re.sub(r"hostname:[^,]+|timestamp:\d+", "", line): line for line in found}

    # What is printed and what is reported come by different ways, and a thread writes the file.
    for line in (
        f"Seen.Things:1.0|#ModelName:busy,Level:Model|#,requestID:{request},",
        "Size.MB:7.0|#Kind:big|#,requestID:null,",
        "Printed.Count:5.0|#ModelName:m|#,requestID:null,",
    ):
        wait_for(lambda line=line: line in logged(), 10, line)
    found = logged()
    assert not [line for line in found if "own_refusals" in line or "NotListed" in line]
    assert server.metric("own_refusals", model="busy") == 3
    assert server.metric("Seen") == 0


def test_a_file_that_cannot_be_stops_the_start(
    new_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text("model_metrics: {gauge: [{name: A, unit: ms}]}")
    said = re.escape(f"metrics_config={path}: model_metrics.gauge[0] (A): 'dimensions' is missing")
    with pytest.raises(AssertionError, match=said):
        new_server(metrics_config=path).start()
