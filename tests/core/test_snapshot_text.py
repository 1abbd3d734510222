"""What a snapshot says, and what a server makes of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.config import load_config
from flambeau.frontend.errors import ConfigError
from flambeau.frontend.properties import format_properties, parse
from flambeau.frontend.snapshots import render

FROM_TORCHSERVE = Path(__file__).parent.parent / "data" / "torchserve-shutdown.cfg"
MODELS: dict[str, dict[str, dict[str, object]]] = {
    "m": {
        "1.0": {
            "defaultVersion": True,
            "marName": "m.mar",
            "minWorkers": 2,
            "maxWorkers": 3,
            "batchSize": 4,
            "maxBatchDelay": 50,
            "responseTimeout": 9,
            "startupTimeout": 8,
            "runtimeType": "python",
        },
        "2.0": {"defaultVersion": False, "marName": "n.mar", "minWorkers": 0},
    }
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path


def snapshots_of(folder, config, models=MODELS):
    name = "20261127194247710-snapshot.cfg"
    target = folder / "logs" / "config" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(config, models, name, 1795808581.041))
    return target


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.dictionaries(texts.filter(bool), texts, max_size=5))
def test_properties_are_read_back_as_they_were_written(entries):
    text = format_properties(entries)
    assert text.isascii()
    assert {key: value for key, value, _ in parse(text)} == entries


def test_a_server_starts_from_its_own_snapshot(folder):
    config = load_config({"model_store": "store", "snapshots": True}, {}, folder)
    snapshots_of(folder, config)
    restored = load_config({"snapshots": True}, {}, folder)
    assert restored.model_store == folder / "store"
    assert restored.model_snapshot is not None
    version = restored.model_snapshot["m"]["1.0"]
    assert (version.mar_name, version.min_workers, version.max_workers) == ("m.mar", 2, 3)
    assert (version.batch_size, version.max_batch_delay, version.response_timeout) == (4, 50, 9)
    assert version.default_version is True
    assert any("load_models is not looked at" in warning for warning in restored.warnings)


def test_a_snapshot_is_left_alone_unless_it_is_asked_for(folder):
    config = load_config({"model_store": "store"}, {}, folder)
    snapshots_of(folder, config)
    assert load_config({}, {}, folder).model_snapshot is None
    assert (
        load_config({"snapshots": False}, {}, folder, {"snapshots": "true"}).model_snapshot is None
    )
    assert load_config({}, {}, folder, {"snapshots": "true"}).model_snapshot is not None


def test_a_named_file_beats_the_last_snapshot(folder):
    snapshots_of(folder, load_config({"model_store": "store"}, {}, folder))
    (folder / "mine.properties").write_text("job_queue_size=7\n")
    config = load_config({"snapshots": True, "config": "mine.properties"}, {}, folder)
    assert (config.model_snapshot, config.job_queue_size) == (None, 7)


def test_snapshots_lie_where_the_logs_do(folder):
    config = load_config({}, {"LOG_LOCATION": "elsewhere"}, folder)
    assert config.snapshot_dir == folder / "elsewhere" / "config"


def test_torchserves_own_snapshot_is_understood(folder):
    (folder / "snapshot.cfg").write_text(FROM_TORCHSERVE.read_text())
    (folder / "store" / "telling.mar").touch()
    config = load_config({"config": "snapshot.cfg"}, {}, folder)
    assert config.model_snapshot is not None
    assert config.model_snapshot["telling"]["1.0"].mar_name == "telling.mar"
    assert config.inference_address == "http://127.0.0.1:18080"
    # Neither another environment's interpreter nor an open door is taken over.
    assert config.sources.get("workers_python") is None
    assert config.sources.get("disable_token_authorization") is None


def test_secrets_are_not_written_down(folder):
    (folder / "config.properties").write_text("keystore_pass=pa55\njob_queue_size=7\n")
    config = load_config({"model_store": "store"}, {}, folder)
    text = snapshots_of(folder, config).read_text()
    assert "job_queue_size=7" in text
    assert "pa55" not in text
    assert "load_models" not in text


def test_where_one_start_logged_to_is_not_written_down(folder):
    environ = {"HOME": str(folder), "LOG_LOCATION": str(folder / "logs")}
    flags = {"model_store": str(folder / "store"), "log_file": str(folder / "server.log")}
    defaults = {"metrics_location": str(folder), "access_log": "true"}
    text = render(load_config(flags, environ, folder, defaults), {}, "x-snapshot.cfg", 0.0)
    assert "access_log=true" in text
    for key in ("log_file", "log_location", "metrics_location"):
        assert key not in text


def test_the_summary_counts_versions(folder):
    config = load_config({"model_store": "store"}, {}, folder)
    entries = {key: value for key, value, _ in parse(snapshots_of(folder, config).read_text())}
    summary = json.loads(entries["model_snapshot"])
    assert list(summary) == ["name", "modelCount", "created", "models"]
    assert (summary["modelCount"], summary["created"]) == (2, 1795808581041)
    assert summary["models"] == MODELS


def test_a_summary_that_is_none_is_refused(folder):
    (folder / "config.properties").write_text("model_snapshot={nope\n")
    with pytest.raises(ConfigError, match="model_snapshot"):
        load_config({}, {}, folder)
