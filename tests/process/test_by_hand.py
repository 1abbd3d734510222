"""The commands as a user types them, from an archive to an answer."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from real_server import OBEDIENT, environment, free_port, is_gone, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAMBEAU = Path(sys.executable).with_name("flambeau")
ARCHIVE = (
    "flambeau archive --model-name tame --version 1.0 --handler handler.py"
    " --export-path model_store"
)
START = "flambeau start --model-store model_store --models tame=tame.mar --background"


class Shell:
    """A user's terminal in a folder of their own; ports and run directory by environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = Path(tempfile.mkdtemp(prefix="fl"))
        self.ports = [free_port() for _ in range(3)]
        self._environ = {
            **environment(),
            "FLAMBEAU_RUN_DIR": str(self.run_dir),
            "FLAMBEAU_MODEL_CACHE_DIR": str(folder / "cache"),
            "FLAMBEAU_PRELOAD": "none",
            "FLAMBEAU_MANAGEMENT": f"http://127.0.0.1:{self.ports[1]}",
        }
        for name, port in zip(("INFERENCE", "MANAGEMENT", "METRICS"), self.ports, strict=True):
            self._environ[f"FLAMBEAU_{name}_ADDRESS"] = f"http://127.0.0.1:{port}"

    def begin(self, line: str) -> subprocess.Popen[str]:
        """A line that is typed and not waited for; it prints both streams into one."""
        program, *arguments = shlex.split(line)
        assert program == "flambeau"
        return subprocess.Popen(
            [FLAMBEAU, *arguments],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, line: str, code: int = 0) -> str:
        """What a line prints; it must end with ``code`` and never show a traceback."""
        with self.begin(line) as process:
            printed, _ = process.communicate(timeout=60)
        assert process.returncode == code, f"{line}\n{printed}"
        assert "Traceback" not in printed
        return printed

    def predict(self, order: str) -> str:
        return f"flambeau predict tame --url http://127.0.0.1:{self.ports[0]} --json '{order}'"

    def servers(self) -> list[dict[str, Any]]:
        return list(json.loads(self.type("flambeau status --json"))["servers"])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    (tmp_path / "handler.py").write_text(OBEDIENT)
    (tmp_path / "model_store").mkdir()
    (tmp_path / "config.properties").write_text("default_workers_per_model=2\n")
    yield shell
    for path in (shell.run_dir / "servers").glob("*.json"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
    shutil.rmtree(shell.run_dir)


def test_from_an_archive_to_an_answer(shell: Shell) -> None:
    shell.type(ARCHIVE)
    assert (shell.folder / "model_store" / "tame.mar").is_file()

    started = shell.type(START)
    (server,) = shell.servers()
    assert f"pid {server['pid']}" in started
    assert f"http://127.0.0.1:{shell.ports[0]}" in started
    assert server["health"] == "Healthy"
    (model,) = server["models"]
    assert model["modelName"] == "tame"
    processes = psutil.Process(server["pid"]).children(recursive=True)
    assert {each.pid for each in processes} == {each["pid"] for each in model["workers"]}
    assert len(processes) == 2

    said = shell.type(shell.predict('{"answer": {"said": "yes"}}'))
    assert json.loads(said) == {"said": "yes"}
    assert "tame" in shell.type("flambeau models list")
    assert "2/2" in shell.type("flambeau status")
    again = shell.type("flambeau start --model-store model_store", code=1)
    assert "already running" in again

    shell.type("flambeau models scale tame --min-worker 1")
    assert len(shell.servers()[0]["models"][0]["workers"]) == 1
    assert "READY" in shell.type("flambeau models describe tame")
    shell.type("flambeau models unregister tame")
    assert "Model not found: tame" in shell.type(shell.predict("{}"), code=1)

    assert "flambeau has stopped." in shell.type("flambeau stop")
    assert all(map(is_gone, processes))
    assert "not currently running" in shell.type("flambeau stop")
    assert "not currently running" in shell.type("flambeau status", code=1)


def test_stop_lets_a_request_finish(shell: Shell) -> None:
    shell.type(ARCHIVE)
    shell.type(START)
    seen, gate = shell.folder / "seen", shell.folder / "gate"
    order = json.dumps({"seen": str(seen), "gate": str(gate), "answer": "done"})
    with shell.begin(shell.predict(order)) as predicting:
        wait_for(seen.exists, 10.0, "the worker to be busy")
        with shell.begin("flambeau stop") as stopping:
            log = shell.run_dir / "logs" / f"{shell.ports[1]}.log"
            wait_for(lambda: "draining" in log.read_text(), 10.0, "the server to drain")
            assert stopping.poll() is None
            gate.touch()
            assert predicting.communicate(timeout=20)[0].strip() == "done"
            assert "flambeau has stopped." in stopping.communicate(timeout=20)[0]
    assert predicting.returncode == stopping.returncode == 0


def test_a_server_that_cannot_start_in_the_background_says_why(shell: Shell) -> None:
    said = shell.type("flambeau start --model-store nowhere --background", code=1)
    assert "--model-store directory not found" in said
    assert "not currently running" in shell.type("flambeau stop")


def test_a_model_that_cannot_load_is_refused_with_its_reason(shell: Shell) -> None:
    broken = shell.folder / "model_store" / "broken"
    broken.mkdir()
    (broken / "handler.py").write_text("raise RuntimeError('out of order')\n")
    shell.type("flambeau start --model-store model_store --background")
    said = shell.type("flambeau models register broken --handler handler.py", code=1)
    assert "out of order" in said
    assert shell.servers()[0]["models"] == []
    shell.type("flambeau stop")
