"""Metrics that handlers report."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from flambeau.worker import metrics as module
from flambeau.worker.metrics import (
    Dimension,
    Metrics,
    MetricsCacheKeyError,
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
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_SAMPLES", 2)
    for value in range(5):
        metrics.add_counter("a", value)
    assert [sample.value for sample in metrics.drain()] == [0, 1]
    assert metrics.dropped == 3
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
    torch = pytest.importorskip("torch")
    metrics.set_request_ids("loading")
    metrics.add_time("a", torch.tensor(1.5))
    assert [sample.value for sample in metrics.store] == [1.5]
