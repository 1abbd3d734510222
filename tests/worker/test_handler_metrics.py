"""Metrics that handlers report."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from typing import Any

import pytest

from flambeau.worker import metrics as module
from flambeau.worker.context import Context
from flambeau.worker.metrics import (
    CachingMetric,
    Dimension,
    Metrics,
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
    MetricTypes,
    Sample,
)

MODEL = [("ModelName", "digits"), ("Level", "Model")]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("digits")


def test_each_call_has_its_type_and_unit(metrics: Metrics) -> None:
    metrics.add_counter("a", 1)
    metrics.add_time("b", 2.5)
    metrics.add_time("b2", 1, None, "s", metric_type=MetricTypes.HISTOGRAM)
    metrics.add_size("c", 3, unit="kB")
    metrics.add_percent("d", 4)
    metrics.add_metric("e", 5, "things")
    assert metrics.drain() == [
        Sample("a", "counter", "Count", 1.0, MODEL),
        Sample("b", "gauge", "Milliseconds", 2.5, MODEL),
        Sample("b2", "histogram", "Seconds", 1.0, MODEL),
        Sample("c", "gauge", "Kilobytes", 3.0, MODEL),
        Sample("d", "gauge", "Percent", 4.0, MODEL),
        Sample("e", "counter", "things", 5.0, MODEL),
    ]


def test_an_error_has_its_own_level(metrics: Metrics) -> None:
    metrics.add_error("broken", 1)
    assert metrics.drain() == [Sample("broken", "counter", "unit", 1.0, [("Level", "Error")])]


def test_own_dimensions_come_first_and_replace_the_defaults(metrics: Metrics) -> None:
    given = [Dimension("Level", "Layer"), Dimension("Layer", 3)]
    metrics.add_counter("a", 1, dimensions=given)
    assert metrics.drain()[0].dimensions == [
        ("Level", "Layer"),
        ("Layer", "3"),
        ("ModelName", "digits"),
    ]
    assert [str(dimension) for dimension in given] == ["Level:Layer", "Layer:3"]


def test_draining_leaves_nothing(metrics: Metrics) -> None:
    metrics.add_counter("a", 1)
    assert len(metrics.drain()) == 1
    assert metrics.drain() == []


def test_beyond_the_bound_samples_are_counted_and_not_kept(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_SAMPLES", 2)
    for value in range(5):
        metrics.add_counter("a", value)
    assert [sample.value for sample in metrics.drain()] == [0, 1]
    assert metrics.dropped == 3
    assert caplog.text.count("More than 2 values were reported") == 1
    metrics.add_counter("a", 9)
    assert len(metrics.drain()) == 1


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "many", None, object()])
def test_a_value_that_cannot_be_counted_is_logged_and_not_raised(
    metrics: Metrics, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    metrics.add_counter("a", value)
    assert metrics.drain() == []
    assert "Failed to update metric with name:a" in caplog.text


def test_a_gauge_may_be_negative(metrics: Metrics) -> None:
    metrics.add_time("a", -1)
    assert metrics.drain()[0].value == -1


def test_other_dimensions_than_at_the_first_use_are_logged(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.add_counter("a", 1)
    metrics.add_counter("a", 1, dimensions=[Dimension("x", "y")])
    assert len(metrics.drain()) == 1
    assert "should correspond to Dimension names" in caplog.text


def test_units_that_do_not_fit_are_refused(metrics: Metrics) -> None:
    with pytest.raises(MetricsCacheValueError, match="timed metric"):
        metrics.add_time("a", 1, unit="min")
    with pytest.raises(ValueError, match="size based metric"):
        metrics.add_size("a", 1, unit="TB")


def test_a_metric_made_beforehand_takes_values(metrics: Metrics) -> None:
    made = metrics.add_metric_to_cache("a", "count", ["x"], MetricTypes.GAUGE)
    assert metrics.get_metric("a", MetricTypes.GAUGE) is made
    assert metrics.cache_keys() == ["gauge:a"]
    made.add_or_update(2, ["y"])
    made.add_or_update(2, ["y", "z"])
    assert metrics.drain() == [Sample("a", "gauge", "Count", 2.0, [("x", "y")])]


def test_the_older_update_call_replaces_the_dimension_names(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    made = metrics.add_metric_to_cache("a", "count", ["x"])
    with caplog.at_level(logging.WARNING):
        made.update(1, "request", [Dimension("p", "q"), Dimension("r", "s")])
    assert metrics.drain()[0].dimensions == [("p", "q"), ("r", "s")]
    assert "Overriding existing dimensions" in caplog.text


def test_an_unknown_metric_is_named(metrics: Metrics) -> None:
    metrics.add_counter("a", 1)
    with pytest.raises(MetricsCacheKeyError, match="'a' doesn't exist"):
        metrics.get_metric("a", MetricTypes.GAUGE)


def test_making_a_metric_twice_warns(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    metrics.add_metric_to_cache("a", "count")
    metrics.add_metric_to_cache("a", "count")
    assert "Overriding existing key" in caplog.text
    assert Dimension("a", 1).to_dict() == {"Name": "a", "Value": 1}


def test_a_tensor_of_one_number_is_a_value(metrics: Metrics) -> None:
    import torch

    metrics.set_request_ids("loading")
    metrics.add_time("a", torch.tensor(1.5))
    assert [sample.value for sample in metrics.store] == [1.5]


def test_a_sample_names_the_request_of_its_row(metrics: Metrics) -> None:
    metrics.set_request_ids({0: "r0", 1: "r1"})
    for idx in (None, 1, 7, "x", True, []):
        metrics.add_counter("a", 1, idx)
    metrics.add_error("e", 1)
    metrics.get_metric("a").add_or_update(1, ["m", "Model"], "mine")
    metrics.set_request_ids("loading")
    metrics.add_counter("a", 1)
    both = "r0,r1"
    assert [sample.request for sample in metrics.drain()] == [
        *(both, "r1", both, both, both, both),
        *("", "mine", "loading"),
    ]


def test_what_metrics_yaml_lists_is_there(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics("m", [["a", "histogram", "ms", ["Kind", "Level"]]])
    metrics.get_metric("a", MetricTypes.HISTOGRAM).add_or_update(1, ["x", "y"])
    metrics.add_time("a", 2, unit="s", metric_type=MetricTypes.HISTOGRAM)
    metrics.add_time("a", 3, dimensions=[Dimension("z", 1)], metric_type=MetricTypes.HISTOGRAM)
    assert metrics.drain() == [
        Sample("a", "histogram", "Milliseconds", 1.0, [("Kind", "x"), ("Level", "y")]),
        # By place, as in TorchServe: the caller's names have no say.
        Sample("a", "histogram", "Milliseconds", 2.0, [("Kind", "m"), ("Level", "Model")]),
    ]
    assert "should correspond to Dimension names: ['Kind', 'Level']" in caplog.text


@pytest.mark.parametrize(
    "make",
    [
        lambda metrics: metrics.get_metric(3),
        lambda metrics: metrics.get_metric("a", "counter"),
        lambda metrics: metrics.add_metric("a", 1, "ms", metric_type="gauge"),
        lambda metrics: metrics.add_counter(None, 1),
        lambda metrics: metrics.add_metric_to_cache("a", "ms", "Level"),
    ],
)
def test_what_is_of_the_wrong_type_is_refused(metrics: Metrics, make: Any) -> None:
    with pytest.raises(MetricsCacheTypeError):
        make(metrics)


def test_names_without_end_do_not_fill_the_worker(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_METRICS", 3)
    for number in range(6):
        metrics.add_counter(f"n{number}", 1)
    assert metrics.cache_keys() == ["counter:n0", "counter:n1", "counter:n2"]
    assert len(metrics.drain()) == 6
    assert caplog.text.count("made 3 metrics; from 'n3' on") == 1


def test_a_metric_made_without_a_recorder_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    CachingMetric("Hits", "count", ["Kind"]).add_or_update(2, ["a"], "r1")
    assert re.fullmatch(
        r"\[METRICS\]Hits\.Count:2\.0\|#Kind:a\|#type:COUNTER\|#hostname:.+,\d+,r1",
        caplog.messages[0],
    )


def test_copies_report_to_the_same_place(metrics: Metrics) -> None:
    context = Context("m", "/m", None, 1, None, "0.12.0", metrics=metrics)
    metrics.set_request_ids({0: "first"})
    twin = copy.deepcopy(context)
    twin.metrics.set_request_ids({0: "second"})
    twin.metrics.add_counter("a", 1)
    metrics.add_counter("a", 1)
    assert [sample.request for sample in metrics.drain()] == ["second", "first"]
    twin.metrics.add_counter("a", 1)
    assert len(metrics.drain()) == 1
    assert len(pickle.loads(pickle.dumps(context)).metrics.cache_keys()) == 1  # noqa: S301


def test_declared_metrics_need_no_more_than_their_use(metrics: Metrics) -> None:
    metrics.counter("refusals", "Refused inputs", reason="size").inc()
    metrics.counter("refusals", reason=3).inc(2)
    metrics.gauge("cached").set(7)
    metrics.histogram("tokens", buckets=[1, 10]).observe(4)
    with metrics.timer("load_seconds", name="x"):
        pass

    @metrics.timer("call_seconds")
    def fails() -> None:
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            fails()
    samples = metrics.drain()
    assert samples[:4] == [
        Sample("refusals", "counter", "unit", 1.0, [("reason", "size")], "", "Refused inputs"),
        Sample("refusals", "counter", "unit", 2.0, [("reason", "3")], "", ""),
        Sample("cached", "gauge", "unit", 7.0, [], "", ""),
        Sample("tokens", "histogram", "unit", 4.0, [], "", "", [1.0, 10.0]),
    ]
    assert [(s.name, s.type, s.dimensions) for s in samples[4:]] == [
        ("load_seconds", "histogram", [("name", "x")]),
        ("call_seconds", "histogram", []),
        ("call_seconds", "histogram", []),
    ]
    assert all(0 <= sample.value < 60 for sample in samples[4:])


@pytest.mark.parametrize(
    "declare",
    [
        lambda metrics: metrics.counter("my metric"),
        lambda metrics: metrics.counter(3),
        lambda metrics: metrics.gauge("a", model="x"),
        lambda metrics: metrics.gauge("a", __secret="x"),
        lambda metrics: metrics.histogram("a", buckets=[]),
        lambda metrics: metrics.histogram("a", buckets=[2, 1]),
        lambda metrics: metrics.histogram("a", buckets=[1, float("inf")]),
    ],
)
def test_what_cannot_be_declared_is_refused(metrics: Metrics, declare: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot be called|must be 1 to"):
        declare(metrics)


@pytest.mark.parametrize("value", [-1, float("nan"), "many", None])
def test_what_cannot_be_counted_is_logged(
    metrics: Metrics, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.counter("a").inc(value)
    assert metrics.drain() == []
    assert "Metric a cannot be set to" in caplog.text
