"""TorchServe's metrics.yaml."""

from __future__ import annotations

import pytest

from flambeau.frontend.errors import ConfigError
from flambeau.frontend.metrics_config import MetricsConfig, read_metrics_config

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
    - {name: PredictionTime, unit: ms, dimensions: [ModelName, Level]}
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


def test_what_is_listed_for_models_is_told_to_workers(tmp_path):
    path = tmp_path / "metrics.yaml"
    path.write_text(TEXT)
    config = read_metrics_config(path, detect_models=False)
    assert config.for_workers() == [["PredictionTime", "gauge", "ms", ["ModelName", "Level"]]]
    assert [each[0] for each in MetricsConfig().for_workers()] == ["HandlerTime", "PredictionTime"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ts_metrics: [", "is not YAML"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
        ("[1]", "must have the sections"),
        ("", "must have the sections"),
        ("ts_metrics: 3", "ts_metrics must hold lists"),
        ("ts_metrics: {counter: [{unit: x}]}", "ts_metrics.counter[0]: 'name' is missing"),
        ("ts_metrics: {}", "has no section model_metrics"),
        ("model_metrics:", "has no section model_metrics"),
        ("model_metrics: {meter: []}", "model_metrics: 'meter' is no type of metric"),
        ("model_metrics: {gauge: 3}", "model_metrics.gauge must be a list"),
        ("model_metrics: {gauge: [3]}", "model_metrics.gauge[0]: 'name' is missing"),
        (
            "model_metrics: {gauge: [{name: A, unit: ms, dimensions: []}, {name: B, unit: ms}]}",
            "model_metrics.gauge[1] (B): 'dimensions' is missing",
        ),
        ("model_metrics: {gauge: [{name: A, dimensions: []}]}", "'unit' is missing"),
        ("model_metrics: {gauge: [{name: A, unit: s, dimensions: x}]}", "must be a list of names"),
    ],
)
def test_a_file_that_cannot_be_names_itself_and_the_place(tmp_path, text, said):
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_metrics_config(path, detect_models=False)
    assert said in raised.value.message
    assert f"metrics_config={path}" in raised.value.message


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_metrics_config(tmp_path / "nowhere.yaml", detect_models=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_metrics_config(tmp_path, detect_models=True)
