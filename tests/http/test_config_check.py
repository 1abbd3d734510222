"""``flambeau config check``: what is wrong with a file, before a server is started with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from flambeau.frontend.cli import main

IMAGE = """
# As a container image ships it.
inference_address=http://0.0.0.0:8080
management_address=http://127.0.0.1:8081
metrics_address=http://127.0.0.1:8082
number_of_netty_threads=32
job_queue_size=1000
model_store=store
workflow_store=store
"""
KUBERNETES = """
inference_address=http://127.0.0.1:8085
management_address=http://127.0.0.1:8085
grpc_inference_port=7070
grpc_management_port=7071
enable_envvars_config=true
install_py_dep_per_model=true
enable_metrics_api=true
metrics_mode=prometheus
NUM_WORKERS=1
number_of_netty_threads=4
job_queue_size=10
model_store=store
model_snapshot={"name":"startup.cfg","modelCount":1,"models":{"m":{"1.0":{"defaultVersion":true,\\
"marName":"m.mar","minWorkers":1,"maxWorkers":5,"batchSize":1,"maxBatchDelay":5000,\\
"responseTimeout":120}}}}
"""
CLOUD = """
vmargs=-XX:-UseContainerSupport -Xmx1g
model_store=$$STORE$$
load_models=ALL
inference_address=http://127.0.0.1:$$PORT$$
management_address=http://127.0.0.1:$$PORT$$
default_response_timeout=$$TIMEOUT$$
default_service_handler=my.service:handle
enable_envvars_config=true
decode_input_request=false
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "m.mar").touch()

    def run(text: str):
        Path("config.properties").write_text(text)
        return CliRunner().invoke(main, ["config", "check", "config.properties"])

    return run


@pytest.mark.parametrize("text", [IMAGE, KUBERNETES, CLOUD, ""])
def test_files_as_they_are_in_use_can_work(check, monkeypatch, text):
    for name, value in {"STORE": "store", "PORT": "8080", "TIMEOUT": "60"}.items():
        monkeypatch.setenv(name, value)
    result = check(text)
    assert result.exit_code == 0, result.output
    assert "config.properties can work." in result.output


def test_every_value_that_cannot_be_is_named_with_its_line(check):
    result = check("job_queue_size=many\nmodel_store=store\nbatching=sometimes\n")
    assert result.exit_code == 1
    problems = [line for line in result.output.splitlines() if line.startswith("Problem")]
    assert len(problems) == 2
    assert "job_queue_size=many" in problems[0]
    assert "config.properties:1" in problems[0]
    assert "config.properties:3" in problems[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_store=nowhere", "--model-store directory not found"),
        ("model_store=store\nload_models=m.mar,n.mar", "n.mar is not in the model store"),
        ("inference_address=https://127.0.0.1:8443", "private_key_file"),
        ("job_queue_size=$$NOT_SET_ANYWHERE$$", "Invalid Environment Variable NOT_SET_ANYWHERE"),
        ("a=\\u12", "Invalid configuration"),
        ("api_keys_file=nowhere", "cannot be read"),
        ("management_address=http://0.0.0.0:8081", "allow_open_listeners"),
        (
            "inference_address=http://127.0.0.1:8080\nmetrics_address=http://127.0.0.1:8080",
            "must differ",
        ),
        ("enable_grpc_ssl=true", "private_key_file"),
        ("python=/nowhere/python", "workers_python=/nowhere/python: there is no such program"),
        ("metrics_config=nowhere.yaml", "nowhere.yaml: there is no such file"),
        ("trusted_archives=nowhere", "nowhere: there is no such file"),
    ],
)
def test_what_cannot_work_is_said(check, text, said):
    result = check(text)
    assert result.exit_code == 1
    assert said in result.output


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["config", "check", "nowhere.properties"])
    assert result.exit_code == 2
    assert "'nowhere.properties' does not exist" in result.output


def test_what_the_command_torchserve_lets_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.properties").write_text("management_address=http://0.0.0.0:8081\nload_models=a.mar")
    run = CliRunner().invoke
    assert "allow_open_listeners" in run(main, ["config", "check", "c.properties"]).output
    asked = ["config", "check", "--torchserve", "c.properties"]
    assert run(main, asked).exit_code == 0
    Path("store").mkdir()
    result = run(main, [*asked, "--model-store", "store"])
    assert result.exit_code == 1
    assert "a.mar is not in the model store" in result.output
