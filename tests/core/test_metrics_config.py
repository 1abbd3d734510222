"""TorchServe's metrics.yaml."""

from __future__ import annotations

import logging

import pytest

from flambeau.frontend.metrics_config import read_metrics_config

TEXT = """
dimensions:
  - &host "Level"
ts_metrics:
  counter:
    - {name: Requests2XX, unit: Count, dimensions: [*host]}
  gauge:
    - {name: QueueTime, unit: Milliseconds}
  histogram:
model_metrics:
  gauge:
    - {name: PredictionTime, unit: ms}
"""


def test_without_a_file_everything_is_wanted():
    config = read_metrics_config(None, detect_models=False)
    assert config.wants_host("x")
    assert config.wants_model("x")


@pytest.mark.parametrize("detect", [False, True])
def test_only_what_is_listed_is_wanted(tmp_path, detect):
    path = tmp_path / "metrics.yaml"
    path.write_text(TEXT)
    config = read_metrics_config(path, detect_models=detect)
    assert config.wants_host("Requests2XX")
    assert config.wants_host("QueueTime")
    assert not config.wants_host("Requests4XX")
    assert config.wants_model("PredictionTime")
    assert config.wants_model("mine") is detect


@pytest.mark.parametrize(
    "text",
    [
        "ts_metrics: [",
        "ts_metrics: {counter: [{unit: x}]}",
        "!!python/object/apply:os.getcwd []",
        "[1]",
        "ts_metrics: 3",
    ],
)
def test_a_file_that_cannot_be_read_means_no_metrics(tmp_path, caplog, text):
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    with caplog.at_level(logging.ERROR):
        config = read_metrics_config(path, detect_models=False)
    assert not config.wants_host("Requests2XX")
    assert "metrics_config cannot be read" in caplog.text


def test_a_file_that_is_not_there_means_no_metrics(tmp_path):
    config = read_metrics_config(tmp_path / "nowhere.yaml", detect_models=True)
    assert not config.wants_model("x")
