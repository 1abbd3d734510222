"""What is written for Prometheus is what its library would write."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from flambeau.frontend.exposition import HistogramLines, write

BOUNDS = (0.005, 1, 30.0)
TEXTS = st.text(max_size=5)
VALUES = st.floats() | st.integers(0, 10**9).map(float)


class Given(Collector):
    def __init__(self, *families: Metric) -> None:
        self.families = families

    def collect(self):
        return self.families


@given(
    st.lists(st.tuples(TEXTS, TEXTS), unique=True, max_size=3),
    st.lists(st.integers(0, 10**8), min_size=4, max_size=4),
    VALUES,
)
def test_histograms_are_written_as_the_library_does(keys, counts, total):
    ours = HistogramLines("seconds", "a\\b\nc", BOUNDS)
    theirs = HistogramMetricFamily("seconds", "a\\b\nc", labels=["model", "version"])
    bounds = [*(str(float(bound)) for bound in BOUNDS), "+Inf"]
    for model, version in keys:
        ours.add({"model": model, "version": version}, counts, total)
        buckets = list(zip(bounds, map(float, itertools.accumulate(counts)), strict=True))
        theirs.add_metric([model, version], buckets, total)
    assert write([ours]) == generate_latest(Given(theirs))


@given(TEXTS, TEXTS, VALUES)
def test_so_are_other_families(model, documentation, value):
    counter = CounterMetricFamily("requests", documentation, labels=["z", "model"])
    counter.add_metric(["1", model], value)
    gauge = GaugeMetricFamily("workers", documentation, labels=["model"])
    gauge.add_metric([model], value)
    plain = GaugeMetricFamily("late", documentation, value=value)
    families = (counter, gauge, plain)
    assert write(families) == generate_latest(Given(*families))


def test_a_counter_whose_samples_have_no_suffix_gets_none():
    counter = Metric("Requests2XX", "of TorchServe", "counter")
    counter.add_sample("Requests2XX", {}, 1.0)
    lines = write([counter]).decode().splitlines()
    assert lines == [
        "# HELP Requests2XX of TorchServe",
        "# TYPE Requests2XX counter",
        "Requests2XX 1.0",
    ]
