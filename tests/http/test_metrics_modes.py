"""Where metrics go: to Prometheus, to the log, or to both."""

from __future__ import annotations

import logging
import re
import socket

import pytest

from flambeau.frontend.jobs import Outcome
from flambeau.frontend.metrics import Metrics
from flambeau.frontend.metrics_config import MetricsConfig
from flambeau.frontend.system_metrics import SystemMetrics

KEY = ("m", "1.0")
ANSWERED = Outcome(queued=0.25, batched=0.75, handled=0.5, batch_size=4)
SAMPLES = [["Mine", "counter", "Count", 2.0, [["ModelName", "m"], ["Level", "Model"]]]]
LINE = re.compile(
    r"(\w+)\.(\w+):([\d.]+)\|#([\w:,.-]*)\|#hostname:([^,]+),(requestID:[^,]+,)?timestamp:\d+"
)


def busy(**how) -> Metrics:
    """What is there after one request of each kind."""
    metrics = Metrics(system=SystemMetrics(), **how)
    metrics.observe(KEY, None, ANSWERED, 1.0, "r7")
    metrics.count_response(200)
    metrics.record_samples(KEY, SAMPLES)
    metrics.worker_loaded(("m", "1.0"), 9000, 1.5)
    metrics.log_system()
    return metrics


def families(metrics: Metrics) -> set[str]:
    text = metrics.exposition().decode()
    return set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


TORCHSERVES = {
    "Requests2XX", "Requests4XX", "Requests5XX", "QueueTime", "WorkerThreadTime",
    "WorkerLoadTime", "PredictionTime", "CPUUtilization", "MemoryUtilization", "MemoryUsed",
    "MemoryAvailable", "DiskUsage", "DiskUtilization", "DiskAvailable",
    "ts_inference_requests_total", "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
}  # fmt: skip


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO)

    def lines():
        return [LINE.fullmatch(r.message) for r in caplog.records if "_metrics" in r.name]

    return lines


def test_prometheus_has_everything_and_the_log_nothing(logged):
    assert families(busy()) >= TORCHSERVES | {"Mine"}
    assert not logged()


def test_the_log_has_everything_and_prometheus_only_our_own(logged):
    shown = families(busy(mode="log"))
    assert not shown & (TORCHSERVES | {"Mine"})
    assert "flambeau_requests_total" in shown
    found = logged()
    assert all(found)
    values = {line[1]: (line[2], float(line[3]), line[4]) for line in found}
    assert values["Requests2XX"] == ("Count", 1.0, "Level:Host")
    assert values["QueueTime"] == ("Milliseconds", 250.0, "Level:Host")
    assert values["WorkerThreadTime"] == ("Milliseconds", 250.0, "Level:Host")
    assert values["PredictionTime"] == ("ms", 500.0, "ModelName:m,Level:Model")
    assert values["Mine"] == ("Count", 2.0, "ModelName:m,Level:Model")
    assert values["WorkerLoadTime"][1:] == (1500.0, "WorkerName:W-9000-m_1.0,Level:Host")
    assert "CPUUtilization" in values
    of_model = "model_name:m,model_version:default"
    assert values["ts_inference_requests_total"] == ("Count", 1.0, of_model)
    assert values["ts_queue_latency_microseconds"] == ("Microseconds", 250000.0, of_model)
    requests = {line[1]: line[6] for line in found}
    assert requests["PredictionTime"] == "requestID:r7,"
    assert requests["QueueTime"] is None
    assert requests["Mine"] == "requestID:null,"
    assert {line[5] for line in found} == {socket.gethostname()}


def test_legacy_shows_torchserves_counters_and_logs_the_rest(logged):
    shown = families(busy(mode="legacy")) & TORCHSERVES
    assert shown == {name for name in TORCHSERVES if name.startswith("ts_")}
    assert logged()


def test_only_what_is_wanted_is_shown():
    wanted = MetricsConfig(frozenset({"QueueTime", "ts_inference_requests_total"}), {}, False)
    shown = families(busy(wanted=wanted))
    assert shown & (TORCHSERVES | {"Mine"}) == {"QueueTime", "ts_inference_requests_total"}


def test_a_worker_that_is_gone_leaves_no_load_time_behind():
    metrics = busy()
    metrics.forget(KEY)
    text = metrics.exposition().decode()
    assert "W-9000" not in text
    assert "PredictionTime{" not in text


def test_the_metrics_api_may_be_off(make_house):
    house = make_house(enable_metrics_api=False)
    assert set(house.listeners.urls) == {"inference", "management"}
    assert house.ask("GET", "/ping").status == 200
