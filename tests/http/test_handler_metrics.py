"""What handlers report shows at /metrics under TorchServe's names."""

from __future__ import annotations

import re

import pytest

from flambeau.frontend import handler_metrics
from flambeau.frontend.handler_metrics import MAX_SERIES
from flambeau.frontend.jobs import Outcome
from flambeau.frontend.metrics import Metrics
from flambeau.frontend.metrics_config import Listed, MetricsConfig
from flambeau.frontend.system_metrics import SystemMetrics

KEY = ("m", "1.0")
DIMENSIONS = [["ModelName", "m"], ["Level", "Model"]]


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.exposition().decode().splitlines() if name in line]


def test_a_gauge_keeps_the_last_value_and_a_counter_adds_up():
    metrics = Metrics()
    for value in (1.5, 2.5):
        metrics.record_samples(
            KEY,
            [
                ["HandlerTime", "gauge", "Milliseconds", value, DIMENSIONS],
                ["Seen", "counter", "Count", value, DIMENSIONS],
            ],
        )
    gauge = lines(metrics, "HandlerTime")
    assert gauge[0].endswith("Torchserve prometheus gauge metric with unit: ms")
    assert gauge[2].startswith('HandlerTime{Hostname="')
    assert gauge[2].endswith(',Level="Model",ModelName="m"} 2.5')
    assert lines(metrics, "Seen")[1] == "# TYPE Seen counter"
    assert lines(metrics, "Seen")[2].endswith("} 4.0")


def test_a_histogram_has_buckets_count_and_sum():
    metrics = Metrics()
    metrics.record_samples(
        KEY, [["Size", "histogram", "B", value, []] for value in (0.3, 4.0, 400.0)]
    )
    found = {
        line.split("{")[0] + line.rpartition("le=")[2]: line for line in lines(metrics, "Size_")
    }
    assert found['Size_bucket"0.5"} 1.0']
    assert found['Size_bucket"5.0"} 2.0']
    assert found['Size_bucket"+Inf"} 3.0']
    assert lines(metrics, "Size_sum")[0].endswith(" 404.3")


def test_names_and_labels_are_made_fit_for_prometheus():
    metrics = Metrics()
    metrics.record_samples(KEY, [["my metric", "gauge", "unit", 1, [["a-b", 'x"\n']]]])
    assert lines(metrics, "my_metric{")[0].endswith('a_b="x\\"\\n"} 1.0')


def test_nonsense_and_a_second_type_for_a_name_are_left_out():
    metrics = Metrics()
    metrics.record_samples(
        KEY,
        [
            ["a", "gauge", "unit", 1, []],
            ["a", "counter", "unit", 5, []],
            ["b", "summary", "unit", 1, []],
            ["c", "gauge", "unit", "much", []],
            ["d"],
            ["", "gauge", "unit", 1, []],
            ["e", "counter", "unit", -1, []],
            ["f", "gauge", "unit", 1, [[f"l{number}", "x"] for number in range(33)]],
        ],
    )
    assert lines(metrics, "a{")[0].endswith("} 1.0")
    assert not [line for name in "bcdef" for line in lines(metrics, f" {name} ")]


def test_a_runaway_label_does_not_fill_the_memory(caplog):
    metrics = Metrics()
    for number in range(MAX_SERIES + 5):
        metrics.record_samples(KEY, [["n", "gauge", "unit", 1, [["user", number]]]])
    assert len(lines(metrics, "n{")) == MAX_SERIES
    assert len(caplog.records) == 1


def test_what_a_client_can_put_into_a_label_never_breaks_the_exposition():
    metrics = Metrics()
    metrics.record_samples(KEY, [["n", "gauge", "un\udc80it", 1, [["user", "\udc80\ud800"]]]])
    assert lines(metrics, "n{")[0].endswith('user="??"} 1.0')


def test_the_series_of_a_model_that_is_gone_are_dropped():
    metrics = Metrics()
    metrics.record_samples(KEY, [["n", "gauge", "unit", 1, DIMENSIONS]])
    metrics.forget(("m", "1.0"))
    assert not lines(metrics, "n{")


def test_names_without_end_do_not_fill_the_memory(caplog, monkeypatch):
    monkeypatch.setattr(handler_metrics, "MAX_SERIES", 3)
    metrics = Metrics()
    for number in range(9):
        metrics.record_samples(KEY, [[f"n{number}", "gauge", "unit", 1, []]])
        metrics.record_samples(("other", "1.0"), [["calm", "counter", "unit", 1, []]])
    assert re.findall(r"^# TYPE (n\d)", metrics.exposition().decode(), re.MULTILINE) == [
        "n0",
        "n1",
        "n2",
    ]
    assert lines(metrics, "calm{")[0].endswith("} 9.0")
    (record,) = caplog.records
    assert "model m made more than 3 label sets" in record.message
    metrics.forget(KEY)
    metrics.record_samples(KEY, [["n9", "gauge", "unit", 1, []]])
    assert lines(metrics, "n9{")


def test_long_texts_are_cut():
    metrics = Metrics()
    metrics.record_samples(KEY, [["n" * 9000, "gauge", "unit", 1, [["a", "x" * 9000]]]])
    assert len(lines(metrics, "nnn")[2]) < 2200


def test_a_wrong_call_is_named_once(caplog):
    metrics = Metrics()
    for _ in range(3):
        metrics.record_samples(KEY, [["QueueTime", "gauge", "ms", 1, []], ["x"]])
    assert [record.message.partition(" is left out")[0] for record in caplog.records] == [
        "metric QueueTime of model m",
        "metric x of model m",
    ]


def test_no_handler_has_a_metric_of_the_servers_names():
    metrics = Metrics(system=SystemMetrics())
    names = re.findall(r"^# TYPE (\w+)", metrics.exposition().decode(), re.MULTILINE)
    before = metrics.exposition().count(b"# TYPE")
    metrics.record_samples(KEY, [[name, "gauge", "unit", 1, DIMENSIONS] for name in names])
    assert metrics.exposition().count(b"# TYPE") == before


LISTED = MetricsConfig(
    frozenset(),
    {"Seen": Listed("Seen", "counter", "Things", ("Model", "Kind"))},
    detects_models=False,
)


def test_what_metrics_yaml_lists_has_its_type_unit_and_dimensions(caplog):
    metrics = Metrics(wanted=LISTED)
    metrics.record_samples(
        KEY,
        [
            ["Seen", "gauge", "Count", 2, [["ModelName", "m"], ["Level", "Model"]]],
            ["Seen", "gauge", "Count", 3, [["x", "m"], ["y", "Model"]]],
            ["Seen", "counter", "Count", 5, [["ModelName", "m"]]],
            ["NotListed", "counter", "Count", 5, []],
        ],
    )
    shown = lines(metrics, "Seen")
    assert shown[0].endswith("counter metric with unit: Things")
    assert shown[2].endswith('Kind="Model",Model="m"} 5.0')
    assert "lists it with the dimensions Model, Kind" in caplog.text
    assert not lines(metrics, "NotListed")


def test_what_metrics_yaml_lists_is_logged_under_its_names(caplog):
    caplog.set_level("INFO")
    metrics = Metrics(wanted=LISTED, mode="log")
    metrics.record_samples(KEY, [["Seen", "gauge", "Count", 2, [["a", "m"], ["b", "c"]], "r1,r2"]])
    (record,) = caplog.records
    assert record.message.startswith("Seen.Things:2.0|#Model:m,Kind:c|#hostname:")
    assert ",requestID:r1,r2,timestamp:" in record.message


@pytest.mark.parametrize("mode", ["prometheus", "log", "legacy"])
def test_what_a_handler_declares_itself_is_shown_in_every_mode(mode, caplog):
    caplog.set_level("INFO")
    metrics = Metrics(wanted=LISTED, mode=mode)
    own = ["", "How long it takes", [1.0, 8.0]]
    for value in (0.5, 2, 80):
        metrics.record_samples(KEY, [["mine", "histogram", "unit", value, [["kind", "a"]], *own]])
    text = metrics.exposition().decode()
    assert "# HELP mine How long it takes" in text
    found = re.findall(r'mine_bucket\{.*kind="a",le="(.*?)",model="m",version="1.0"\} (.*)', text)
    assert found == [("1.0", "1.0"), ("8.0", "2.0"), ("+Inf", "3.0")]
    assert not caplog.records


def test_what_a_version_has_declared_goes_with_it():
    metrics = Metrics()
    for version in ("1.0", "2.0"):
        metrics.record_samples(("m", version), [["mine", "gauge", "unit", 1, [], "", "Mine"]])
        metrics.record_samples(("m", version), [["theirs", "gauge", "unit", 1, DIMENSIONS]])
        metrics.observe(("m", version), None, Outcome(), 1.0)
    metrics.forget(("m", "1.0"))
    assert re.findall(r'version="(.*)"', "\n".join(lines(metrics, "mine{"))) == ["2.0"]
    assert lines(metrics, "theirs{")
    metrics.forget(("m", "2.0"))
    assert not lines(metrics, "mine") + lines(metrics, "theirs")


@pytest.mark.parametrize(
    "dimensions",
    [[["", "x"]], [["1st", "x"]], [["Hostname", "x"]], [["le", "1"]], [["a-b", "x"], ["a_b", "y"]]],
)
def test_labels_that_would_spoil_the_page_are_left_out(dimensions, caplog):
    metrics = Metrics()
    metrics.record_samples(KEY, [["odd", "gauge", "unit", 1, dimensions]])
    assert lines(metrics, "odd") == []
    assert "metric odd of model m is left out" in caplog.text


@pytest.mark.parametrize("first", [0, 1])
def test_no_metric_has_the_name_of_a_part_of_a_histogram(first):
    metrics = Metrics()
    samples = [["size", "histogram", "B", 1, []], ["size_count", "counter", "Count", 5, []]]
    for sample in (samples[first], samples[1 - first]):
        metrics.record_samples(KEY, [sample])
    found = [line for line in lines(metrics, "size_count") if not line.startswith("#")]
    assert len(found) == 1
