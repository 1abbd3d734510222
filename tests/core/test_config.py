"""One frozen Config from flags, environment, file and defaults; it knows where values came from."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flambeau.frontend.config import (
    LOAD_ALL,
    SETTINGS,
    Address,
    Config,
    find_run_dir,
    load_config,
    parse_address,
)
from flambeau.frontend.errors import ConfigError
from flambeau.frontend.version_settings import VersionSettings


def load(
    cwd: Path, text: str | None = None, environ: dict[str, str] | None = None, **flags: Any
) -> Config:
    if text is not None:
        (cwd / "config.properties").write_text(text, encoding="utf-8")
    return load_config(flags, {"HOME": "/home/x", **(environ or {})}, cwd)


def refusal(cwd: Path, text: str | None = None, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(cwd, text, **more)
    return caught.value.message


def test_the_defaults_are_torchserves(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.inference_address == "http://127.0.0.1:8080"
    assert config.management_address == "http://127.0.0.1:8081"
    assert config.metrics_address == "http://127.0.0.1:8082"
    assert config.default_response_timeout == config.default_startup_timeout == 120
    assert config.job_queue_size == 100
    assert config.max_request_size == 6553500
    assert config.model_store is None
    assert config.load_models == ()
    assert config.number_of_gpu is None
    assert config.workers_python == sys.executable
    assert config.warnings == ()
    assert set(config.sources) == set()


def test_a_config_can_be_made_without_loading() -> None:
    config = Config(job_queue_size=7)
    assert (config.job_queue_size, config.batching) == (7, "adaptive")
    assert config.run_dir.is_absolute()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.job_queue_size = 8  # type: ignore[misc]


def test_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = "job_queue_size=1\nlog_level=debug\nbatching=fixed\n"
    environ = {"TS_JOB_QUEUE_SIZE": "2", "TS_LOG_LEVEL": "ERROR"}
    config = load(tmp_path, text, environ, log_level="warning")
    assert (config.job_queue_size, config.log_level, config.batching) == (2, "WARNING", "fixed")
    assert config.sources == {
        "job_queue_size": "environment TS_JOB_QUEUE_SIZE",
        "log_level": "flag --log-level",
        "batching": f"{tmp_path / 'config.properties'}:3",
    }


def test_the_environment_beats_flags_where_the_file_says_so(tmp_path: Path) -> None:
    environ = {"TS_LOG_LEVEL": "ERROR", "TS_ENABLE_ENVVARS_CONFIG": "false"}
    config = load(tmp_path, "enable_envvars_config=True", environ, log_level="INFO")
    assert config.log_level == "ERROR"
    assert config.enable_envvars_config
    assert load(tmp_path, "", environ, log_level="INFO").log_level == "INFO"


def test_our_name_of_a_variable_beats_torchserves(tmp_path: Path) -> None:
    environ = {"TS_DRAIN_TIMEOUT": "1", "FLAMBEAU_DRAIN_TIMEOUT": "2"}
    assert load(tmp_path, environ=environ).drain_timeout == 2


def test_empty_values_count_as_not_set(tmp_path: Path) -> None:
    config = load(tmp_path, "number_of_gpu=\njob_queue_size =  \n", {"TS_BATCHING": ""})
    assert (config.number_of_gpu, config.job_queue_size, config.batching) == (None, 100, "adaptive")


@pytest.mark.parametrize(
    ("line", "wish"),
    [
        ("job_queue_size=abc", "must be a whole number from 1 up"),
        ("job_queue_size=0", "must be a whole number from 1 up"),
        ("job_queue_size=1_0", "must be a whole number from 1 up"),
        ("job_queue_size=1.5", "must be a whole number from 1 up"),
        ("max_request_size=99999999999", "must be a whole number from 1 up"),
        ("retry_lost_batch=11", "must be a whole number from 0 to 10"),
        ("decode_input_request=yes", "must be true or false"),
        ("enable_envvars_config=1", "must be true or false"),
        ("batching=eager", "must be adaptive or fixed"),
        ("log_level=LOUD", "must be DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("blacklist_env_vars=(", "must be a regular expression"),
        ("inference_address=8080", "must be an address such as http://127.0.0.1:8080"),
        ("load_models=a.mar,,b.mar", "'' in it is neither ARCHIVE nor NAME=ARCHIVE"),
        ("load_models=a=", "'a=' in it is neither"),
        ("load_models==a.mar", "'=a.mar' in it is neither"),
        ("models=[]", "the block must be a JSON object"),
        ("models={x", "must be JSON"),
        ('models={"m": 1}', "m must be a JSON object"),
        ('models={"m": {"1.0": []}}', "m 1.0 must be a JSON object"),
        ('models={"m": {"1.0": {"batchSize": "4"}}}', "batchSize of m 1.0 must be a whole number"),
        ('models={"m": {"1.0": {"batchSize": true}}}', "batchSize of m 1.0 must be a whole number"),
        ('models={"m": {"1": {"defaultVersion": 1}}}', "defaultVersion of m 1 must be true or f"),
    ],
)
def test_a_bad_value_is_refused_with_key_value_source_and_what_is_allowed(
    tmp_path: Path, line: str, wish: str
) -> None:
    message = refusal(tmp_path, f"# first\n{line}\n")
    assert message.startswith(f"{line} ({tmp_path / 'config.properties'}:2): ")
    assert wish in message


def test_a_bad_value_of_a_flag_or_variable_names_that(tmp_path: Path) -> None:
    assert "(flag --log-level)" in refusal(tmp_path, log_level="loud")
    assert "(environment TS_BATCHING)" in refusal(tmp_path, environ={"TS_BATCHING": "x"})
    assert "(flag --run-dir): must be a path" in refusal(tmp_path, run_dir="")


def test_a_bad_value_that_does_not_count_does_no_harm(tmp_path: Path) -> None:
    assert load(tmp_path, "log_level=loud", log_level="ERROR").log_level == "ERROR"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", LOAD_ALL),
        ("ALL", LOAD_ALL),
        ("none", ()),
        ("a.mar", ((None, "a.mar"),)),
        ("x=a.mar, b.tar.gz", (("x", "a.mar"), (None, "b.tar.gz"))),
        ("x=a.mar?y=z", (("x", "a.mar?y=z"),)),
        ("my model.mar", ((None, "my model.mar"),)),
    ],
)
def test_load_models_is_all_none_or_a_list(tmp_path: Path, text: str, expected: object) -> None:
    config = load(tmp_path, f"load_models={text}")
    assert config.load_models == expected
    assert config.loads_all_models == (text.lower() == "all")


def test_the_models_block_is_typed_per_version(tmp_path: Path) -> None:
    text = """models={\\
      "noop": {\\
        "1.0": {"defaultVersion": true, "marName": "noop.mar", "minWorkers": 1, "maxWorkers": 2,\\
                "batchSize": 4, "maxBatchDelay": 100, "responseTimeout": 120},\\
        "2.0": {"minWorkers": 0, "startupTimeout": -1, "batchsize": 3}\\
      }\\
    }"""
    config = load(tmp_path, text)
    assert config.models["noop"]["1.0"] == VersionSettings(
        min_workers=1,
        max_workers=2,
        batch_size=4,
        max_batch_delay=100,
        response_timeout=120,
        mar_name="noop.mar",
        default_version=True,
    )
    assert config.models["noop"]["2.0"] == VersionSettings(unknown=("batchsize",))
    (warning,) = config.warnings
    assert "batchsize of noop 2.0 has no effect" in warning


def test_a_model_store_must_exist(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert load(tmp_path, model_store="store").model_store == tmp_path / "store"
    message = refusal(tmp_path, model_store="nowhere")
    assert message.startswith(f"--model-store directory not found: {tmp_path / 'nowhere'}")


def test_paths_are_made_absolute(tmp_path: Path) -> None:
    config = load(tmp_path, "run_dir=~/run\nmodel_cache_dir=a/../cache")
    assert config.run_dir == Path("/home/x/run")
    assert config.model_cache_dir == tmp_path / "cache"


def test_the_workers_interpreter_has_torchserves_name_too(tmp_path: Path) -> None:
    config = load(tmp_path, "python=/opt/bin/python")
    assert config.workers_python == "/opt/bin/python"
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1", 8080),
        ("HTTP://Localhost:0/", "localhost", 0),
        ("http://10.0.0.1", "10.0.0.1", 80),
        ("http://[::1]:8080", "::1", 8080),
    ],
)
def test_an_address_has_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert parse_address(str(parse_address(text))) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        "127.0.0.1:8080",
        "ftp://h:1",
        "http://",
        "http://h:x",
        "http://h:70000",
        "http://h:1/path",
        "http://u@h:1",
        "http://h:1?q",
        "http://h :1",
        "http://[::1",
    ],
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="must be an address such as"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://h:1", Address("h", 1, is_tls=True)),
        ("HTTPS://h", Address("h", 443, is_tls=True)),
        ("unix:/run/x.sock", Address("", 0, path="/run/x.sock")),
        ("unix:///run//x.sock", Address("", 0, path="/run/x.sock")),
        ("UNIX:/run/a/../x", Address("", 0, path="/run/x")),
    ],
)
def test_an_address_may_be_https_or_a_unix_socket(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["unix:", "unix:/", "unix:run/x", "unix://"])
def test_a_unix_address_needs_an_absolute_path(text: str) -> None:
    with pytest.raises(ConfigError, match="must be unix: and an absolute path"):
        parse_address(text)


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    parse_address("unix:/" + "x" * 106)
    with pytest.raises(ConfigError, match="must not be longer than 107 bytes"):
        parse_address("unix:/" + "x" * 107)


def test_missing_ports_are_torchserves(tmp_path: Path) -> None:
    text = "inference_address=http://h\nmanagement_address=http://h\nmetrics_address=http://h"
    text += "\nallow_open_listeners=true"
    config = load(tmp_path, text)
    assert config.inference_address == "http://h:80"
    assert config.management_address == "http://h:8081"
    assert config.metrics_address == "http://h:8082"
    config = load(tmp_path, text.replace("http:", "https:"))
    assert config.inference_address == "https://h:443"
    assert config.management_address == "https://h:8444"
    assert config.metrics_address == "https://h:8445"


@pytest.mark.parametrize(
    "management",
    ["https://127.0.0.1:8080", "http://localhost:8080", "http://0.0.0.0:8080", "http://[::]:8080"],
)
def test_two_listeners_cannot_half_share_an_address(tmp_path: Path, management: str) -> None:
    message = refusal(tmp_path, management_address=management)
    assert message.startswith(f"management_address={management} (flag --management-address)")
    assert "must be the same as inference_address=http://127.0.0.1:8080, or differ" in message


@pytest.mark.parametrize("shared", ["http://127.0.0.1:9", "https://localhost:9", "unix:/run/x"])
def test_inference_and_management_may_have_one_address(tmp_path: Path, shared: str) -> None:
    load(tmp_path, inference_address=shared, management_address=shared)
    message = refusal(tmp_path, inference_address=shared, metrics_address=shared)
    assert "must differ from inference_address" in message


@pytest.mark.parametrize("mode", ["0600", "660"])
def test_the_mode_of_sockets_is_octal(tmp_path: Path, mode: str) -> None:
    assert load(tmp_path, f"unix_socket_mode={mode}").unix_socket_mode == mode[-3:]
    assert "must be a file mode such as 660" in refusal(tmp_path, "unix_socket_mode=888")


def test_a_header_of_the_configuration_is_plain(tmp_path: Path) -> None:
    assert load(tmp_path, "cors_allowed_origin=*").cors_allowed_origin == "*"
    assert "printable" in refusal(tmp_path, "cors_allowed_origin=a\\r\\nSet-Cookie: b")


def test_by_default_only_this_machine_reaches_the_listeners(tmp_path: Path) -> None:
    config = load(tmp_path)
    for key in SETTINGS:
        if key.endswith("_address") and "://" in getattr(config, key):
            assert parse_address(getattr(config, key)).is_loopback, key


def test_port_0_may_be_used_for_all(tmp_path: Path) -> None:
    here = "http://127.0.0.1:0"
    config = load(tmp_path, inference_address=here, management_address=here, metrics_address=here)
    assert config.metrics_address == here


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "[::1]"])
def test_an_address_of_this_machine_alone_is_fine(tmp_path: Path, host: str) -> None:
    text = f"inference_address=http://0.0.0.0:1\nmanagement_address=http://{host}:2"
    assert load(tmp_path, text).warnings == ()


def test_explain_tells_every_key_in_json_ready_values(tmp_path: Path) -> None:
    models = '{"m": {"1.0": {"minWorkers": 2, "defaultVersion": true}}}'
    config = load(tmp_path, f"models={models}\nload_models=x=a.mar,b.mar", access_log=True)
    rows = {key: (value, source) for key, value, source in config.explain()}
    assert list(rows) == list(SETTINGS)
    assert rows["models"][0] == json.loads(models)
    assert rows["load_models"][0] == "x=a.mar,b.mar"
    assert rows["access_log"] == (True, "flag --access-log")
    assert rows["job_queue_size"] == (100, "default")
    json.dumps(rows)


def test_what_explain_shows_can_be_loaded_again(tmp_path: Path) -> None:
    config = load(tmp_path, "load_models=all\nbatching=fixed\nretry_lost_batch=0")
    lines = [
        f"{key}={json.dumps(value) if not isinstance(value, str) else value}"
        for key, value, _ in config.explain()
        if value is not None
    ]
    again = load(tmp_path, "\n".join(lines))
    values = [value for _, value, _ in config.explain()]
    assert [value for _, value, _ in again.explain()] == values


def test_the_table_of_keys_is_complete() -> None:
    names = [each.name for each in dataclasses.fields(Config)]
    assert [*SETTINGS, "sources", "warnings"] == names
    for key, setting in SETTINGS.items():
        assert setting.key == key
        assert setting.meaning.endswith(".")
        assert setting.default


def test_the_run_dir_is_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text("job_queue_size=abc\nrun_dir=here")
    assert find_run_dir({}, {}, tmp_path) == tmp_path / "here"
    assert find_run_dir({"run_dir": "there"}, {}, tmp_path) == tmp_path / "there"
