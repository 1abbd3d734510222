"""The command torchserve, as scripts written for TorchServe use it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from real_server import Store, environment, free_port, wait_for

COMMAND = [sys.executable, "-m", "flambeau.frontend.cli_torchserve"]


class Installation:
    """A folder to start torchserve in, with ports and a temporary folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0
        # Sockets lie in the temporary folder, and their paths must be short.
        self.scratch = Path(tempfile.mkdtemp(prefix="ts"))
        self.store = Store(folder / "store")
        self.store.mar("obedient")
        self.ports = {name: free_port() for name in ("inference", "management", "metrics")}
        settings = [f"{k}_address=http://127.0.0.1:{v}\n" for k, v in self.ports.items()]
        settings += [f"grpc_{k}_port=0\n" for k in ("inference", "management")]
        settings += [f"model_cache_dir={folder}/cache\n", "default_workers_per_model=1\n"]
        (folder / "config.properties").write_text("".join(settings))

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Exit code and output; what a server that goes on prints later is not waited for."""
        self.runs += 1
        with open(self.output, "wb") as output:
            code = subprocess.run(
                [*COMMAND, *arguments],
                cwd=self.folder,
                env={**environment(), "TMPDIR": str(self.scratch), **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
            ).returncode
        return code, self.output.read_text()

    @property
    def output(self) -> Path:
        """What the last command, and the server that it started, have printed."""
        return self.folder / f"out{self.runs}"

    def ask(
        self, method: str, target: str, listener: str = "management", key: str | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[listener], timeout=30)
        try:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            connection.request(method, target, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        except ConnectionError as error:
            return 0, str(error).encode()
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        wait_for(
            lambda: self.ask("GET", "/readyz", "inference")[0] == 200,
            30,
            f"the server; it says {self.output.read_text()}",
        )

    @property
    def pid(self) -> int | None:
        path = self.scratch / ".model_server.pid"
        return int(path.read_text()) if path.exists() else None

    def described(self) -> dict[str, object]:
        return dict(json.loads(self.ask("GET", "/models/obedient")[1])[0])

    def keys(self) -> dict[str, str]:
        content = json.loads((self.folder / "key_file.json").read_text())
        return {name: value["key"] for name, value in content.items()}

    def has_ended(self, pid: int) -> bool:
        # The server is a grandchild whose parent has ended: the tests' own process reaps it.
        try:
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path)
    yield made
    pid = made.pid
    if pid is not None:
        made.run("--stop", "--foreground")
        wait_for(lambda: made.has_ended(pid), 20, "the end of the server")
    shutil.rmtree(made.scratch)


START = ("--start", "--model-store", "store", "--disable-token-auth", "--enable-model-api")


def test_a_server_is_started_and_stopped_and_starts_again_with_what_it_had(installation):
    assert installation.run(*START, "--models", "obedient=obedient.mar")[0] == 0
    installation.wait_until_ready()
    assert "Model server started." in installation.output.read_text()
    scaled = installation.ask("PUT", "/models/obedient?min_worker=2&synchronous=true")
    assert scaled[0] == 200
    code, said = installation.run(*START)
    assert (code, said) == (
        1,
        "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n",
    )
    first = installation.pid
    assert installation.run("--stop") == (0, "TorchServe has stopped.\n")
    wait_for(lambda: installation.has_ended(first), 20, "the end of the server")
    assert installation.run("--stop") == (0, "TorchServe is not currently running.\n")
    names = [path.name for path in (installation.folder / "logs" / "config").iterdir()]
    kinds = sorted({re.sub(r"\d{17}-(\w+)\.cfg", r"\1", name) for name in names})
    assert kinds == ["shutdown", "snapshot", "startup"]

    assert installation.run("--start", "--dt", "--models", "none")[0] == 0
    installation.wait_until_ready()
    described = installation.described()
    assert (described["minWorkers"], described["loadedAtStartup"]) == (2, False)


def test_a_server_that_was_killed_starts_again_with_what_it_had(installation):
    assert installation.run(*START, "--models", "obedient=obedient.mar")[0] == 0
    installation.wait_until_ready()
    config = installation.folder / "logs" / "config"
    wait_for(lambda: list(config.glob("*-startup.cfg")), 20, "the first snapshot")
    pid = installation.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: installation.has_ended(pid), 20, "the end of the server")
    code, said = installation.run("--start", "--dt")
    assert (code, said.splitlines()[0]) == (0, "Removing orphan pid file.")
    installation.wait_until_ready()
    assert installation.described()["minWorkers"] == 1


def test_the_version(installation):
    code, said = installation.run("--version")
    assert code == 0
    assert re.fullmatch(r"TorchServe Version is 0\.12\.0 \(flambeau [\d.]+\)\n", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--start",), "Missing mandatory parameter --model-store\n"),
        (("--model-store", "nope"), "--model-store directory not found: nope\n"),
        (("--ts-config", "nope"), "--ts-config file not found: nope\n"),
        (("--log-config", "nope"), "--log-config file not found: nope\n"),
        (
            ("--workflow-store", "nope", "--model-store", "store"),
            "--workflow-store directory not found: nope\n",
        ),
    ],
)
def test_what_is_missing_is_said(installation, arguments, said):
    assert installation.run(*arguments) == (1, said)


def test_one_thing_at_a_time(installation):
    code, said = installation.run("--start", "--stop")
    assert code == 2
    assert "not allowed with argument" in said


def test_tokens_are_asked_for_and_models_cannot_be_registered_unless_the_command_says_so(
    installation,
):
    command = ("--start", "--ncs", "--model-store", "store")
    assert installation.run(*command, "--models", "obedient=obedient.mar")[0] == 0
    installation.wait_until_ready()
    key_file = installation.folder / "key_file.json"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    keys = installation.keys()

    def ask(method: str, target: str, listener: str, name: str | None) -> int:
        return installation.ask(method, target, listener, keys.get(name))[0]

    assert ask("GET", "/ping", "inference", None) == 400
    assert ask("GET", "/ping", "inference", "management") == 400
    assert ask("GET", "/ping", "inference", "inference") == 200
    assert ask("GET", "/models", "management", "inference") == 400
    assert ask("GET", "/models", "management", "management") == 200
    assert ask("GET", "/metrics", "metrics", None) == 200
    assert ask("POST", "/models?url=obedient.mar", "management", "management") == 405
    assert ask("DELETE", "/models/obedient", "management", "management") == 405
    assert ask("PUT", "/models/obedient?min_worker=2", "management", "management") == 202
    renewed = installation.ask("GET", "/token?type=inference", "management", keys["API"])
    assert renewed == (200, b"\n")
    assert ask("GET", "/ping", "inference", "inference") == 400
    keys = installation.keys()
    assert ask("GET", "/ping", "inference", "inference") == 200

    pid = installation.pid
    assert installation.run("--stop", "--foreground")[0] == 0
    wait_for(lambda: installation.has_ended(pid), 20, "the end of the server")
    assert not key_file.exists()


OPEN = ("--ncs", "--disable-token-auth", "--model-store", "store")


def test_torchserves_files_are_where_they_always_were(installation):
    assert installation.run("--start", *OPEN, "--models", "m=obedient.mar")[0] == 0
    installation.wait_until_ready()
    logs = installation.folder / "logs"
    assert {path.name for path in logs.glob("*.log")} == {
        "access_log.log",
        "model_log.log",
        "ts_log.log",
        "ts_metrics.log",
        "model_metrics.log",
    }
    wait_for(lambda: "GET /readyz" in (logs / "access_log.log").read_text(), 10, "the access log")
    order = json.dumps({"say": "spoken by the handler"}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", installation.ports["inference"])
    connection.request("POST", "/predictions/m", order, {"Content-Type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()
    said = re.compile(
        r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} \[WARN \] W-9000-m_1\.0-stderr MODEL_LOG - "
        r"spoken by the handler$",
        re.MULTILINE,
    )
    for name in ("model_log.log", "ts_log.log"):
        wait_for(lambda: said.search((logs / name).read_text()), 10, name)  # noqa: B023


def test_the_log_goes_to_stdout(installation):
    with open(installation.folder / "stdout", "wb") as output:
        command = [*COMMAND, "--start", *OPEN]
        subprocess.run(
            command,
            cwd=installation.folder,
            env={**environment(), "TMPDIR": str(installation.scratch)},
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=60,
            check=True,
        )
    text = installation.folder / "stdout"
    wait_for(lambda: "Model server started." in text.read_text(), 20, "the words on stdout")


def test_variables_count_only_where_the_file_says_so(installation):
    """A variable that was forgotten in an image must not open a server."""
    variables = {"TS_DISABLE_TOKEN_AUTHORIZATION": "true", "TS_JOB_QUEUE_SIZE": "7"}
    start = ("--start", "--ncs", "--model-store", "store", "--models", "obedient.mar")
    installation.run(*start, **variables)
    installation.wait_until_ready()
    assert installation.ask("GET", "/models")[0] == 400
    ignored = "not read, as under TorchServe: TS_DISABLE_TOKEN_AUTHORIZATION, TS_JOB_QUEUE_SIZE;"
    assert ignored in installation.output.read_text()
    pid = installation.pid
    installation.run("--stop", "--foreground")
    wait_for(lambda: installation.has_ended(pid), 20, "the end of the server")
    with (installation.folder / "config.properties").open("a") as file:
        file.write("enable_envvars_config=true\n")
    installation.run(*start, **variables)
    installation.wait_until_ready()
    assert installation.ask("GET", "/models")[0] == 200
    assert installation.described()["jobQueueStatus"]["remainingCapacity"] == 7
