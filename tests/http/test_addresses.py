"""Unix sockets, and one address for several APIs."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from flambeau.frontend.cli import main
from flambeau.frontend.errors import ConfigError
from flambeau.frontend.runstate import write_state

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    # The path of a socket holds 107 bytes: pytest's own temporary folders are too deep for that.
    with tempfile.TemporaryDirectory(prefix="fl") as name:
        yield Path(name)


def ask(path: Path, method: str, target: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    try:
        connection.sock.connect(str(path))
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_listener_may_be_a_unix_socket_for_its_owner_alone(make_house, folder):
    path = folder / "http.sock"
    house = make_house(inference_address=f"unix:{path}")
    assert house.listeners.urls["inference"] == f"unix:{path}"
    assert ask(path, "GET", "/ping")[0] == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    house.run(house.listeners.close())
    assert not path.exists()


def test_the_mode_of_a_socket_is_the_configured_one(make_house, folder):
    path = folder / "http.sock"
    make_house(management_address=f"unix:{path}", unix_socket_mode="660")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_socket_that_a_dead_server_left_is_replaced(make_house, folder):
    path = folder / "http.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    make_house(inference_address=f"unix:{path}")
    assert ask(path, "GET", "/ping")[0] == 200


def test_a_socket_that_somebody_listens_on_is_not_taken(make_house, folder):
    path = folder / "http.sock"
    make_house(inference_address=f"unix:{path}")
    with pytest.raises(ConfigError) as caught:
        make_house(management_address=f"unix:{path}")
    assert caught.value.message == (
        f"unix:{path} is in use; stop the other server or set management_address."
    )
    assert ask(path, "GET", "/ping")[0] == 200


def test_a_file_in_the_way_is_left_alone(make_house, folder):
    path = folder / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="is no socket"):
        make_house(inference_address=f"unix:{path}")
    assert path.read_text() == "data"


def test_a_folder_that_is_missing_is_said(make_house, folder):
    with pytest.raises(ConfigError, match=r"No such file or directory.*check inference_address"):
        make_house(inference_address=f"unix:{folder}/missing/http.sock")


def test_the_access_log_names_a_client_of_a_socket_as_this_machine(make_house, folder, caplog):
    caplog.set_level("INFO")
    path = folder / "http.sock"
    make_house(inference_address=f"unix:{path}", access_log=True)
    ask(path, "GET", "/ping")
    (line,) = [each.getMessage() for each in caplog.records if each.name == "flambeau.access"]
    assert line.lstrip("/").startswith('127.0.0.1 "GET /ping HTTP/1.1" 200 ')


def test_commands_reach_a_server_behind_a_socket(make_house, folder, monkeypatch):
    path = folder / "http.sock"
    house = make_house(inference_address=f"unix:{path}", management_address=f"unix:{path}")
    monkeypatch.setenv("FLAMBEAU_RUN_DIR", str(folder / "run"))
    (folder / "run").mkdir(mode=0o700)
    write_state(folder / "run", house.listeners.urls)
    run = CliRunner().invoke
    listed = run(main, ["models", "list", "--json", "--management", f"unix:{path}"])
    assert [each["modelName"] for each in json.loads(listed.output)["models"]] == ["m"]
    answer = run(main, ["predict", "m", "--json", "[1]", "--url", f"unix:{path}"])
    assert answer.output == "[1]"
    (server,) = json.loads(run(main, ["status", "--json"]).output)["servers"]
    assert (server["health"], "error" in server) == ("Healthy", False)
    nobody = run(main, ["models", "list", "--management", f"unix:{folder}/nobody"])
    assert f"No server answers at unix:{folder}/nobody" in nobody.output


@pytest.fixture
def shared(make_house):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    here = f"http://127.0.0.1:{port}"
    return make_house(inference_address=here, management_address=here)


def test_one_listener_serves_predictions_models_and_metrics(shared):
    assert shared.listeners.urls["inference"] == shared.listeners.urls["management"]
    assert shared.ask("POST", "/predictions/m", b"x").body == b"x"
    assert shared.ask("POST", "/models/m/invoke", b"x").body == b"x"
    assert shared.manage("GET", "/models").json["models"]
    assert shared.manage("GET", "/models/m/1.0").json[0]["modelName"] == "m"
    assert shared.manage("PUT", "/models/m?min_worker=1").status == 200
    assert b"ts_inference_requests_total" in shared.ask("GET", "/metrics").body
    assert b"ts_inference_requests_total" in shared.ask("GET", "/metrics", listener="metrics").body
    assert shared.ask("GET", "/ping").status == 200


def test_a_shared_listener_refuses_what_none_of_its_apis_knows(shared):
    assert shared.ask("GET", "/nope").json["type"] == "ResourceNotFoundException"
    assert shared.ask("GET", "/models/nope").json["type"] == "ModelNotFoundException"
    assert shared.ask("GET", "/").status == 405
    assert shared.ask("GET", "/predictions/%zz").status == 403
    assert shared.ask("PATCH", "/models").status == 405


@pytest.mark.parametrize(("method", "target"), [("OPTIONS", "/"), ("GET", "/api-description")])
def test_a_shared_listener_describes_all_its_apis(shared, method, target):
    paths = shared.ask(method, target).json["paths"]
    assert {"/ping", "/predictions/{model_name}", "/models", "/metrics"} <= set(paths)
