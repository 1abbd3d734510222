"""What handlers report shows at /metrics under TorchServe's names."""

from __future__ import annotations

from flambeau.frontend.handler_metrics import MAX_SERIES
from flambeau.frontend.metrics import Metrics

DIMENSIONS = [["ModelName", "m"], ["Level", "Model"]]


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.exposition().decode().splitlines() if name in line]


def test_a_gauge_keeps_the_last_value_and_a_counter_adds_up():
    metrics = Metrics()
    for value in (1.5, 2.5):
        metrics.record_samples(
            [
                ["HandlerTime", "gauge", "Milliseconds", value, DIMENSIONS],
                ["Seen", "counter", "Count", value, DIMENSIONS],
            ]
        )
    gauge = lines(metrics, "HandlerTime")
    assert gauge[0].endswith("Torchserve prometheus gauge metric with unit: Milliseconds")
    assert gauge[2].startswith('HandlerTime{Hostname="')
    assert gauge[2].endswith(',Level="Model",ModelName="m"} 2.5')
    assert lines(metrics, "Seen")[1] == "# TYPE Seen counter"
    assert lines(metrics, "Seen")[2].endswith("} 4.0")


def test_a_histogram_has_buckets_count_and_sum():
    metrics = Metrics()
    metrics.record_samples([["Size", "histogram", "B", value, []] for value in (0.3, 4.0, 400.0)])
    found = {
        line.split("{")[0] + line.rpartition("le=")[2]: line for line in lines(metrics, "Size_")
    }
    assert found['Size_bucket"0.5"} 1.0']
    assert found['Size_bucket"5.0"} 2.0']
    assert found['Size_bucket"+Inf"} 3.0']
    assert lines(metrics, "Size_sum")[0].endswith(" 404.3")


def test_names_and_labels_are_made_fit_for_prometheus():
    metrics = Metrics()
    metrics.record_samples([["my metric", "gauge", "unit", 1, [["a-b", 'x"\n']]]])
    assert lines(metrics, "my_metric{")[0].endswith('a_b="x\\"\\n"} 1.0')


def test_nonsense_and_a_second_type_for_a_name_are_left_out():
    metrics = Metrics()
    metrics.record_samples(
        [
            ["a", "gauge", "unit", 1, []],
            ["a", "counter", "unit", 5, []],
            ["b", "summary", "unit", 1, []],
            ["c", "gauge", "unit", "much", []],
            ["d"],
            ["", "gauge", "unit", 1, []],
        ]
    )
    assert lines(metrics, "a{")[0].endswith("} 1.0")
    assert not [line for name in "bcd" for line in lines(metrics, f"{name}{{")]


def test_a_runaway_label_does_not_fill_the_memory(caplog):
    metrics = Metrics()
    for number in range(MAX_SERIES + 5):
        metrics.record_samples([["n", "gauge", "unit", 1, [["user", number]]]])
    assert len(lines(metrics, "n{")) == MAX_SERIES
    assert len(caplog.records) == 1


def test_what_a_client_can_put_into_a_label_never_breaks_the_exposition():
    metrics = Metrics()
    metrics.record_samples([["n", "gauge", "un\udc80it", 1, [["user", "\udc80\ud800"]]]])
    assert lines(metrics, "n{")[0].endswith('user="??"} 1.0')


def test_the_series_of_a_model_that_is_gone_are_dropped():
    metrics = Metrics()
    metrics.record_samples([["n", "gauge", "unit", 1, DIMENSIONS]])
    metrics.forget(("m", "1.0"))
    assert not lines(metrics, "n{")
