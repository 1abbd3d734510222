"""flambeau models, predict and status, against a stand-in that answers like TorchServe."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from flambeau.frontend.cli import main
from flambeau.frontend.cli_client import Server
from flambeau.frontend.runstate import write_state

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_FOUND = {"code": 404, "type": "ModelNotFoundException", "message": "Model not found: gone"}
DEAD = {
    "reason": "signal",
    "message": "killed by SIGKILL",
    "time": "2026-01-02T03:04:05.000Z",
    "tail": ["Traceback ...", "MemoryError"],
}


def version(name: str, number: str, *workers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A version as the management API describes it."""
    return {
        "modelName": name,
        "modelVersion": number,
        "modelUrl": f"{name}.mar",
        "minWorkers": 2,
        "batchSize": 8,
        "loadedAtStartup": True,
        "workers": list(workers),
        "jobQueueStatus": {"remainingCapacity": 97, "pendingRequests": 3},
        **more,
    }


READY = {"id": "0", "pid": 11, "status": "READY", "state": "busy", "memoryUsage": 5 * 2**20}
BACK = {"id": "1", "pid": -1, "status": "UNLOADING", "restarts": 2, "lastExit": DEAD, "gpuId": 1}


class Stub(ThreadingHTTPServer):
    """A server whose answers are set by (method, path); it remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[tuple[str | None, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers with what the stub was given, 404 otherwise."""

    server: Stub
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.server.asked.append((self.command, parts.path, query))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.bodies.append((self.headers.get("Content-Type"), body))
        status, content = self.server.answers.get((self.command, parts.path), (404, NOT_FOUND))
        if callable(content):
            content = content(query)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("FLAMBEAU_RUN_DIR", str(tmp_path / "run"))
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("FLAMBEAU_MANAGEMENT", server.url)
        yield server
        server.shutdown()
        thread.join()


def flambeau(*args: str, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, args, input=input)


def test_models_are_listed_over_all_pages(stub: Stub) -> None:
    names = [f"m{number:03d}" for number in range(205)]

    def page(query: dict[str, str]) -> dict[str, Any]:
        start, size = int(query.get("next_page_token", 0)), int(query["limit"])
        models = [{"modelName": name, "modelUrl": "x.mar"} for name in names[start : start + size]]
        more = {"nextPageToken": str(start + size)} if start + size <= len(names) else {}
        return {**more, "models": models}

    stub.answers["GET", "/models"] = (200, page)
    lines = flambeau("models", "list").output.splitlines()
    assert lines[0].split() == ["MODEL", "ARCHIVE"]
    assert [line.split()[0] for line in lines[1:]] == names
    listed = json.loads(flambeau("models", "list", "--json").output)
    assert [model["modelName"] for model in listed["models"]] == names


def test_no_model_is_said_in_words(stub: Stub) -> None:
    stub.answers["GET", "/models"] = (200, {"models": []})
    assert flambeau("models", "list").output == "No model is registered.\n"
    assert json.loads(flambeau("models", "list", "--json").output) == {"models": []}


def test_register_sends_what_was_given(stub: Stub) -> None:
    stub.answers["POST", "/models"] = (200, {"status": 'Model "d" registered'})
    result = flambeau(
        *("models", "register", "digits 1.mar", "--model-name", "d", "--batch-size", "8"),
        *("--initial-workers", "0", "--max-batch-delay", "20"),
    )
    assert (result.exit_code, result.output) == (0, 'Model "d" registered\n')
    assert stub.asked[-1][2] == {
        "url": "digits 1.mar",
        "model_name": "d",
        "batch_size": "8",
        "initial_workers": "0",
        "max_batch_delay": "20",
        "synchronous": "true",
    }
    result = flambeau("models", "register", "a.mar", "--async", "--json")
    assert json.loads(result.output) == {"status": 'Model "d" registered'}
    assert stub.asked[-1][2] == {"url": "a.mar", "synchronous": "false"}


def test_scale_unregister_and_set_default_name_the_version(stub: Stub) -> None:
    done = (200, {"status": "done"})
    stub.answers["PUT", "/models/a%20b"] = stub.answers["PUT", "/models/m/2.0"] = done
    stub.answers["DELETE", "/models/m"] = stub.answers["DELETE", "/models/m/1.0"] = done
    stub.answers["PUT", "/models/m/2.0/set-default"] = done
    calls = (
        ["scale", "a b", "--min-worker", "2", "--max-worker", "3", "--timeout", "9"],
        ["scale", "m", "--version", "2.0", "--min-worker", "0", "--async"],
        ["unregister", "m"],
        ["unregister", "m", "--version", "1.0"],
        ["set-default", "m", "2.0"],
    )
    for call in calls:
        assert flambeau("models", *call).output == "done\n", call
    assert [asked[2] for asked in stub.asked[:2]] == [
        {"min_worker": "2", "max_worker": "3", "timeout": "9", "synchronous": "true"},
        {"min_worker": "0", "synchronous": "false"},
    ]


def test_describe_shows_settings_workers_and_why_they_died(stub: Stub) -> None:
    versions = [version("m", "1.0", READY, BACK, status="DEGRADED")]
    stub.answers["GET", "/models/m"] = (200, versions)
    result = flambeau("models", "describe", "m")
    assert result.exit_code == 0
    summary, settings, workers, story = result.output.rstrip("\n").split("\n\n")
    assert summary.splitlines()[1].split()[:6] == ["m", "1.0", "DEGRADED", "1/2", "3", "2"]
    assert ["batchSize", "8"] in [line.split() for line in settings.splitlines()]
    assert [line.split() for line in workers.splitlines()[1:]] == [
        ["0", "11", "busy", "-", "5", "-", "-"],
        ["1", "-1", "UNLOADING", "1", "-", "2", "signal"],
    ]
    assert story.splitlines() == [
        "2026-01-02T03:04:05.000Z signal: killed by SIGKILL",
        "  | Traceback ...",
        "  | MemoryError",
    ]
    assert json.loads(flambeau("models", "describe", "m", "--json").output) == versions


def test_describe_all_versions(stub: Stub) -> None:
    stub.answers["GET", "/models/m/all"] = (200, [version("m", "1.0"), version("m", "2.0", READY)])
    output = flambeau("models", "describe", "m", "--version", "all").output
    assert output.count("MODEL  VERSION") == 2


def test_an_error_is_the_servers_words_and_exit_code_1(stub: Stub) -> None:
    result = flambeau("models", "describe", "gone")
    assert result.exit_code == 1
    assert result.stderr == "Error: Model not found: gone (404 ModelNotFoundException)\n"
    assert result.stdout == ""


def test_an_answer_that_is_not_ours_is_an_error(stub: Stub) -> None:
    stub.answers["GET", "/models/m"] = (200, b"<html>")
    stub.answers["GET", "/models/n"] = (502, b"bad gateway")
    stub.answers["PUT", "/models/m/1/set-default"] = (200, [])
    assert "is not JSON" in flambeau("models", "describe", "m").stderr
    assert "HTTP 502 Bad Gateway: bad gateway" in flambeau("models", "describe", "n").stderr
    assert "not understood" in flambeau("models", "set-default", "m", "1").stderr


def test_nobody_there_is_said_with_what_to_do(stub: Stub) -> None:
    with Stub() as gone:
        url = gone.url
    for call in (["models", "list", "--management", url], ["predict", "m", "--url", url]):
        more = ["--json", "{}"] if call[0] == "predict" else []
        result = flambeau(*call, *more)
        assert result.exit_code == 1
        assert result.stderr == (
            f"Error: No server answers at {url}; start one with: flambeau start --model-store DIR\n"
        )


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8081", "http://", "http://h:x"])
def test_only_http_addresses_are_called(url: str) -> None:
    result = flambeau("models", "list", "--management", url)
    assert result.exit_code == 1
    assert f"{url} is not an address such as http://127.0.0.1:8081." in result.output


def test_all_interfaces_are_reached_as_this_machine() -> None:
    assert Server("http://0.0.0.0:81/").url == "http://127.0.0.1:81"
    assert Server("http://[::]:81").url == "http://[::1]:81"
    assert Server("https://h:81").url == "https://h:81"


@pytest.mark.parametrize(
    "call", [["scale", "m"], ["scale", "m", "--min-worker", "-1"], ["register"], ["describe"]]
)
def test_what_is_missing_or_out_of_range_is_wrong_usage(call: list[str]) -> None:
    assert flambeau("models", *call).exit_code == 2


def test_predict_sends_a_file_and_prints_the_answer(stub: Stub) -> None:
    stub.answers["POST", "/predictions/m/2.0"] = (200, b'{"7": 0.9}')
    Path("7.png").write_bytes(b"\x89PNG\x00")
    call = ["predict", "m", "--version", "2.0", "--url", stub.url]
    result = flambeau(*call, "--input", "7.png")
    assert (result.exit_code, result.stdout, result.stderr) == (0, '{"7": 0.9}', "")
    flambeau(*call, "--input", "7.png", "--content-type", "x/y")
    flambeau(*call, "--input", "-", input=b"from stdin")
    flambeau(*call, "--json", '{"a": 1}')
    assert stub.bodies == [
        ("image/png", b"\x89PNG\x00"),
        ("x/y", b"\x89PNG\x00"),
        ("application/octet-stream", b"from stdin"),
        ("application/json", b'{"a": 1}'),
    ]


def test_predict_prints_bytes_as_they_are(stub: Stub) -> None:
    stub.answers["POST", "/predictions/m"] = (200, bytes(range(256)))
    result = flambeau("predict", "m", "--json", "1", "--url", stub.url)
    assert result.stdout_bytes == bytes(range(256))


def test_an_error_answer_is_printed_with_its_status(stub: Stub) -> None:
    result = flambeau("predict", "gone", "--json", "1", "--url", stub.url)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == NOT_FOUND
    assert result.stderr == "HTTP 404 Not Found\n"


@pytest.mark.parametrize("args", [[], ["--json", "{"], ["--json", "1", "--input", "x"], ["--url"]])
def test_predict_needs_one_input(args: list[str]) -> None:
    assert flambeau("predict", "m", *args).exit_code == 2


def test_predict_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = flambeau("predict", "m", "--input", str(tmp_path / "no.png"))
    assert result.exit_code == 1
    assert "no.png cannot be read: No such file" in result.stderr


def on_record(*servers: Stub) -> None:
    """This very process counts as the servers."""
    Path("run").mkdir(mode=0o700)
    for server in servers:
        names = ("inference", "management", "metrics")
        write_state(Path("run"), dict.fromkeys(names, server.url))


def test_status_without_a_server_is_exit_code_1(stub: Stub) -> None:
    result = flambeau("status")
    assert (result.exit_code, result.output) == (1, "flambeau is not currently running.\n")
    result = flambeau("status", "--json")
    assert (result.exit_code, json.loads(result.output)) == (1, {"servers": []})


def test_status_shows_health_and_all_versions(stub: Stub) -> None:
    on_record(stub)
    models = [{"modelName": "a", "modelUrl": "a.mar"}, {"modelName": "b", "modelUrl": "b.mar"}]
    stub.answers["GET", "/ping"] = (500, {"status": "Unhealthy"})
    stub.answers["GET", "/models"] = (200, {"models": models})
    failure = {"reason": "import_error", "message": "No module named 'x'\nmore"}
    stub.answers["GET", "/models/a/all"] = (
        200,
        [version("a", "1.0", READY, BACK), version("a", "2.0", status="FAILED", failure=failure)],
    )
    stub.answers["GET", "/models/b/all"] = (200, [version("b", "1.0", BACK)])
    result = flambeau("status")
    assert result.exit_code == 0
    assert ": Unhealthy\n" in result.output
    assert f"  management  {stub.url}\n" in result.output
    table = result.output.split("\n\n")[1].splitlines()
    assert [line.split()[:6] for line in table[1:]] == [
        ["a", "1.0", "READY", "1/2", "3", "2"],
        ["a", "2.0", "FAILED", "0/0", "3", "0"],
        ["b", "1.0", "UNLOADING", "0/1", "3", "2"],
    ]
    assert table[1].endswith("signal: killed by SIGKILL")
    assert table[2].endswith("import_error: No module named 'x'")
    (report,) = json.loads(flambeau("status", "--json").output)["servers"]
    assert report["health"] == "Unhealthy"
    assert [model["modelVersion"] for model in report["models"]] == ["1.0", "2.0", "1.0"]


GONE = {
    **DEAD,
    "message": "The process was ended by SIGSEGV.",
    "signal": "SIGSEGV",
    "secondsAgo": 130.0,
    "secondsAlive": 7300.0,
    "requestsServed": 41,
    "memoryAtExit": 3 * 2**20,
    "tail": ["Fatal Python error", "at the end"],
}


def test_status_tells_of_trouble_in_whole_sentences_and_where_to_see_more(stub: Stub) -> None:
    on_record(stub)
    stub.answers["GET", "/readyz"] = (503, {"ready": False})
    mute = {**READY, "status": "UNLOADING", "state": "unresponsive", "process": "stopped"}
    ill = version("ill", "1.0", READY, lastExit=GONE, exits={"signal": 3}, status="DEGRADED")
    stub.answers["GET", "/ping"] = (200, {"status": "Healthy"})
    names = [{"modelName": name} for name in ("ill", "well", "mute")]
    stub.answers["GET", "/models"] = (200, {"models": names})
    stub.answers["GET", "/models/ill/all"] = (200, [{**ill, "retryInSec": 9.4}])
    well = version("well", "1.0", READY, lastExit=GONE, exits={"signal": 1}, status="READY")
    stub.answers["GET", "/models/well/all"] = (200, [well])
    stub.answers["GET", "/models/mute/all"] = (200, [version("mute", "1.0", mute)])
    head, table, *stories = flambeau("status").output.rstrip("\n").split("\n\n")
    assert ": Healthy, not ready\n" in head
    last = [line.partition("signal SIGSEGV, 2 min ago")[2] for line in table.splitlines()[1:]]
    assert last[0].startswith(", 3 times: The process was ended by SIGSEGV.")
    assert last[1:] == [": The process was ended by SIGSEGV.", ""]
    assert [story.splitlines() for story in stories] == [
        [
            "ill 1.0:",
            "  signal SIGSEGV, 2 min ago, 3 times: The process was ended by SIGSEGV.",
            "  Its last words: at the end",
            "  It is tried again in 9 s.",
            "  More: flambeau status ill",
        ],
        [
            "mute 1.0:",
            "  Worker 0, pid 11, does not answer: its process is stopped.",
            "  More: flambeau status mute",
        ],
    ]
    whole = flambeau("status", "ill").output
    assert (
        "  It had been there for 2 h, answered 41 requests, had 3 MiB when last measured." in whole
    )
    assert "  | Fatal Python error\n  | at the end\n" in whole
    assert "mute" not in whole
    result = flambeau("status", "absent")
    assert result.exit_code == 1
    assert "Resource not found" in result.output or "404" in result.output


def test_status_of_a_server_that_asks_for_a_token_of_the_other_api(stub: Stub) -> None:
    on_record(stub)
    stub.answers["GET", "/ping"] = (400, {"code": 400, "type": "InvalidKeyException"})
    stub.answers["GET", "/readyz"] = (200, {"ready": True})
    stub.answers["GET", "/models"] = (200, {"models": []})
    assert ": Healthy\n" in flambeau("status").output


def test_status_of_a_server_that_does_not_answer_says_so(stub: Stub) -> None:
    with Stub() as gone:
        on_record(stub, gone)
    stub.answers["GET", "/ping"] = (200, {"status": "Healthy"})
    stub.answers["GET", "/models"] = (200, {"models": []})
    result = flambeau("status")
    assert result.exit_code == 0
    assert ": Healthy\n" in result.output
    assert "No model is registered." in result.output
    assert f"No server answers at {gone.url}" in result.output


@pytest.mark.parametrize("name", ["", "a/b", "m/1.0"])
def test_a_name_is_that_of_one_model(name: str) -> None:
    for command in ("describe", "unregister"):
        result = flambeau("models", command, name)
        assert result.exit_code == 2
        assert "give its version with --version" in result.output


def test_without_an_address_the_server_that_runs_here_is_asked(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLAMBEAU_MANAGEMENT")
    names = ("inference", "management", "metrics")
    Path("run").mkdir(mode=0o700)
    write_state(Path("run"), dict.fromkeys(names, stub.url))
    stub.answers["GET", "/models"] = (200, {"models": []})
    stub.answers["POST", "/predictions/m"] = (200, b"7")
    assert flambeau("models", "list").output == "No model is registered.\n"
    assert flambeau("predict", "m", "--json", "1").output == "7"
    other = "http://127.0.0.1:9"
    write_state(Path("run"), dict.fromkeys(names, other))
    for call in (["models", "list"], ["predict", "m", "--json", "1"]):
        result = flambeau(*call)
        assert result.exit_code == 1
        assert "Several servers run here" in result.stderr
        assert stub.url in result.stderr
        assert other in result.stderr
