"""What is counted, and how Prometheus sees it."""

from __future__ import annotations

import re
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau.frontend.errors import InferenceError
from flambeau.frontend.jobs import Outcome
from flambeau.frontend.metrics import BATCH_BOUNDS, SECONDS_BOUNDS, Metrics

HOST = socket.gethostname()
KEY = ("m", "1.0")
ANSWERED = Outcome(queued=0.25, handled=0.5, batch_size=4)


LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Scrape:
    """An exposition, read line by line: the library's parser would rename TorchServe's counters."""

    def __init__(self, metrics: Metrics, *names: str) -> None:
        self.samples = []
        for line in metrics.exposition(names).decode().splitlines():
            if not line.startswith("#"):
                name, labels, value = LINE.fullmatch(line).groups()
                self.samples.append((name, dict(LABEL.findall(labels or "")), float(value)))

    def __call__(self, name: str, **labels: str) -> float:
        """The value of the one sample that has this name and these labels (and maybe more)."""
        (value,) = [v for n, ls, v in self.samples if n == name and labels.items() <= ls.items()]
        return value

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.samples}


def test_a_request_is_counted_under_torchserves_names():
    metrics = Metrics()
    metrics.observe(KEY, None, ANSWERED, 1.0)
    metrics.observe(KEY, None, ANSWERED, 1.0)
    metrics.observe(KEY, "1.0", ANSWERED, 2.0)
    seen = Scrape(metrics)
    assert seen("ts_inference_requests_total", model_name="m", model_version="default") == 2
    assert seen("ts_inference_requests_total", model_name="m", model_version="1.0") == 1
    assert seen("ts_inference_latency_microseconds", model_version="default") == 2e6
    assert seen("ts_inference_latency_microseconds", model_version="1.0") == 2e6
    assert seen("ts_queue_latency_microseconds", model_version="default") == 5e5
    assert seen("QueueTime") == 250


def test_torchserves_lines_have_its_labels_types_and_help():
    metrics = Metrics()
    metrics.observe(KEY, None, ANSWERED, 1.0)
    metrics.count_response(200)
    lines = metrics.exposition().decode().splitlines()
    for line in (
        "# HELP ts_inference_requests_total Torchserve prometheus counter metric with unit: Count",
        "# TYPE ts_inference_requests_total counter",
        "# HELP ts_queue_latency_microseconds "
        "Torchserve prometheus counter metric with unit: Microseconds",
        "# TYPE ts_queue_latency_microseconds counter",
        "# TYPE ts_inference_latency_microseconds counter",
        "# TYPE Requests2XX counter",
        "# TYPE QueueTime gauge",
        f'ts_inference_requests_total{{hostname="{HOST}",model_name="m",model_version="default"}} '
        "1.0",
        f'Requests2XX{{Hostname="{HOST}",Level="Host"}} 1.0',
    ):
        assert line in lines


def test_an_error_counts_as_a_request_but_has_no_latency():
    metrics = Metrics()
    metrics.observe(KEY, None, Outcome(error=InferenceError("x", 503)), 1.0)
    seen = Scrape(metrics)
    assert seen("ts_inference_requests_total", model_name="m", model_version="default") == 1
    assert seen("ts_inference_latency_microseconds", model_version="default") == 0
    assert seen("flambeau_requests_total", model="m", version="1.0", status="503") == 1
    assert seen("flambeau_request_seconds_count", model="m", version="1.0") == 1
    assert seen("flambeau_queue_seconds_count") == 0
    assert seen("flambeau_batch_size_count") == 0


def test_default_requests_of_two_versions_are_one_series():
    metrics = Metrics()
    metrics.observe(("m", "1.0"), None, ANSWERED, 1.0)
    metrics.observe(("m", "2.0"), None, ANSWERED, 2.0)
    seen = Scrape(metrics)
    assert seen("ts_inference_requests_total", model_name="m", model_version="default") == 2
    assert seen("ts_inference_latency_microseconds", model_version="default") == 3e6


def test_histograms_have_cumulative_buckets_and_the_sum():
    metrics = Metrics()
    for batch_size in (1, 2, 2, 5, 1000):
        metrics.observe(
            KEY, None, Outcome(queued=0.01, batched=99, handled=99, batch_size=batch_size), 0.02
        )
    seen = Scrape(metrics)
    batch = [seen("flambeau_batch_size_bucket", le=str(float(b))) for b in (1, 2, 4, 8)]
    assert batch == [1, 3, 3, 4]
    assert seen("flambeau_batch_size_bucket", le="+Inf") == 5
    assert seen("flambeau_batch_size_sum") == 1010
    assert seen("flambeau_queue_seconds_bucket", le="0.005") == 0
    assert seen("flambeau_queue_seconds_bucket", le="0.01") == 5
    assert seen("flambeau_handler_seconds_bucket", le="60.0") == 0
    assert seen("flambeau_handler_seconds_bucket", le="+Inf") == 5
    assert seen("flambeau_request_seconds_sum") == pytest.approx(0.1)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1000)))
def test_every_value_is_in_its_bucket_and_in_all_larger_ones(values):
    metrics = Metrics()
    for value in values:
        metrics.observe(KEY, None, Outcome(batch_size=1, queued=value), value)
    seen = Scrape(metrics)
    for bound in SECONDS_BOUNDS if values else ():
        expected = sum(value <= bound for value in values)
        assert seen("flambeau_request_seconds_bucket", le=str(bound)) == expected


def test_bounds_ascend():
    for bounds in (SECONDS_BOUNDS, BATCH_BOUNDS):
        assert list(bounds) == sorted(set(bounds))


@pytest.mark.parametrize(
    ("status", "family"),
    [(200, "2XX"), (204, "2XX"), (404, "4XX"), (413, "4XX"), (500, "5XX"), (302, "5XX")],
)
def test_responses_are_counted_by_class(status, family):
    metrics = Metrics()
    metrics.count_response(status)
    seen = Scrape(metrics)
    assert seen(f"Requests{family}") == 1
    assert sum(seen(f"Requests{each}") for each in ("2XX", "4XX", "5XX")) == 1


def test_workers_are_asked_for_at_each_scrape():
    counts = [("m", "1.0", "ready", 2), ("m", "1.0", "busy", 0)]
    metrics = Metrics(workers=lambda: counts)
    assert Scrape(metrics)("flambeau_workers", model="m", version="1.0", state="ready") == 2
    counts[0] = ("m", "1.0", "ready", 1)
    assert Scrape(metrics)("flambeau_workers", model="m", version="1.0", state="ready") == 1


def test_worker_exits_are_counted_by_reason():
    metrics = Metrics()
    metrics.worker_exit(KEY, "crash")
    metrics.worker_exit(KEY, "crash")
    metrics.worker_exit(KEY, "timeout")
    seen = Scrape(metrics)
    assert seen("flambeau_worker_exits_total", model="m", version="1.0", reason="crash") == 2
    assert seen("flambeau_worker_exits_total", reason="timeout") == 1


def test_a_forgotten_version_leaves_no_series():
    metrics = Metrics()
    for key in (KEY, ("other", "1.0")):
        metrics.observe(key, None, ANSWERED, 1.0)
        metrics.worker_exit(key, "crash")
    metrics.forget(KEY)
    metrics.forget(("never", "seen"))
    text = metrics.exposition().decode()
    assert '"m"' not in text
    assert '"other"' in text


def test_label_values_are_escaped():
    metrics = Metrics()
    metrics.observe(('a"b\\c\nd', "1"), None, ANSWERED, 1.0)
    assert Scrape(metrics)("ts_inference_requests_total", model_name=r"a\"b\\c\nd") == 1


def test_families_and_samples_are_chosen_by_name():
    metrics = Metrics()
    metrics.observe(KEY, None, ANSWERED, 1.0)
    assert Scrape(metrics, "QueueTime", "ts_inference_requests_total").names == {
        "QueueTime",
        "ts_inference_requests_total",
    }
    assert Scrape(metrics, "flambeau_batch_size").names == {
        "flambeau_batch_size_bucket",
        "flambeau_batch_size_count",
        "flambeau_batch_size_sum",
    }
    assert metrics.exposition(["nope"]) == b""


def test_the_frontends_own_process_is_measured():
    assert Scrape(Metrics())("process_resident_memory_bytes") > 1e6


def test_two_metrics_do_not_share_anything():
    first, second = Metrics(), Metrics()
    first.count_response(200)
    assert Scrape(second)("Requests2XX") == 0


def test_the_metrics_listener_serves_the_exposition(house):
    house.ask("POST", "/predictions/m", b"x")
    house.ask("POST", "/predictions/nope", b"x")
    for method, target in (("GET", "/metrics"), ("POST", "/metrics/any/thing?x=1")):
        reply = house.ask(method, target, listener="metrics")
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b'flambeau_requests_total{model="m",status="200",version="1.0"} 1.0' in reply.body
        assert b"nope" not in reply.body


def test_the_metrics_listener_filters_by_name(house):
    chosen = house.ask("GET", "/metrics?name[]=QueueTime&name%5B%5D=x", listener="metrics")
    assert chosen.body.count(b"# TYPE") == 1
    nothing = house.ask("GET", "/metrics?name[]=x", listener="metrics")
    assert (nothing.status, nothing.body) == (200, b"")


def test_every_response_on_every_listener_is_counted(house):
    house.ask("GET", "/ping")
    house.manage("GET", "/models")
    house.manage("GET", "/nope")
    house.raw(b"nonsense\r\n\r\n")
    house.ask("GET", "/nope", listener="metrics")
    seen = Scrape(house.metrics)
    assert (seen("Requests2XX"), seen("Requests4XX"), seen("Requests5XX")) == (2, 3, 0)


def test_a_refused_body_is_counted_for_its_model(house):
    house.ask("POST", "/predictions/m/1.0", b"x" * (house.config.max_request_size + 1))
    assert Scrape(house.metrics)("flambeau_requests_total", model="m", status="413") == 1


def test_an_answer_that_http_cannot_carry_is_counted_as_the_error_that_it_becomes(house):
    house.engine.answer = lambda job: Outcome(status=42)
    house.ask("POST", "/predictions/m", b"x")
    assert Scrape(house.metrics)("flambeau_requests_total", model="m", status="500") == 1


def test_a_request_whose_client_left_is_not_counted_as_answered(house, wait_for):
    house.engine.held = True
    with socket.create_connection(house.listeners.addresses["inference"]) as client:
        client.sendall(b"GET /predictions/m HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_for(lambda: house.engine.jobs, "the job")
    wait_for(lambda: house.engine.abandoned, "the abandoned job")
    assert b"flambeau_requests_total{" not in house.metrics.exposition()


def test_late_results_are_counted():
    metrics = Metrics()
    metrics.late_results = lambda: 3
    assert Scrape(metrics)("flambeau_late_results_total") == 3
