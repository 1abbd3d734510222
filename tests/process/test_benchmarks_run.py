"""The benchmark runs from start to end and its report hides nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
RUN = ROOT / "benchmarks" / "run.py"
GOALS = (
    "echo, 1 connection: p50",
    "echo, 32 connections",
    "conv, 32 connections: served / in a loop",
    "conv, 1 connection: p50 with batch size 8 minus p50 with 1",
    "frontend's memory after the load (RSS)",
    "`flambeau start` with digits until ready",
    "idle CPU of all processes, of one core",
)


def rows(report: str) -> dict[str, list[str]]:
    """The cells of all table rows by their first cell."""
    lines = [line for line in report.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


@pytest.mark.timeout(90)
def test_a_tiny_run_measures_everything_and_writes_it_into_the_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    figures = tmp_path / "figures.json"
    shutil.copy(ROOT / "docs" / "benchmarks.md", page)
    # The asyncio client works everywhere; wrk is not installed everywhere.
    command = [sys.executable, str(RUN), "--smoke", "--client", "asyncio"]
    command += ["--write", str(page), "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr

    table = rows(done.stdout)
    for goal in GOALS[:5]:
        assert table[goal][-1] in ("met", "**not met**"), goal
    for goal in GOALS[5:]:
        assert table[goal][-1] == "not measured", goal
    for connections in ("1", "8", "32"):
        assert float(table[connections][0].replace(",", "")) > 0
    assert done.stdout.strip() in page.read_text()
    assert "## What is measured" in page.read_text()

    measured = json.loads(figures.read_text())
    assert [goal["what"] for goal in measured["goals"]] == list(GOALS)
    assert [goal["met"] is None for goal in measured["goals"]] == [False] * 5 + [True] * 2
    assert measured["windows"]["conv"]["served"][0]["requests"] > 0


FAKE_ARCHIVER = "import sys; open(sys.argv[-1] + '/echo.mar', 'w').close()"
FAKE_LAUNCHER = """
import os, subprocess, sys
server = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "server")])
server.wait()
"""
FAKE_SERVER = """
import os, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

lines = Path("config.properties").read_text().splitlines()
values = dict(line.split("=", 1) for line in lines)
assert len({value.rpartition(":")[2] for value in list(values.values())[:6]}) == 6
assert os.environ["TEMP"] == os.environ["TMPDIR"] and Path("store/echo.mar").exists()
worker = subprocess.Popen(["sleep", "600"])  # outlives the server
Path(__file__).with_name("pids").write_text(f"{os.getppid()} {os.getpid()} {worker.pid}")
port = int(values["inference_address"].rpartition(":")[2])
ThreadingHTTPServer(("127.0.0.1", port), Echo).serve_forever()
"""


@pytest.fixture
def fake_torchserve(tmp_path: Path) -> Path:
    """A folder with commands that behave as TorchServe's do: launcher, server and worker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {"torch-model-archiver": FAKE_ARCHIVER, "torchserve": FAKE_LAUNCHER}
    for name, code in {**commands, "server": FAKE_SERVER}.items():
        (folder / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / name).chmod(0o755)
    return folder


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.timeout(90)
def test_torchserve_is_measured_in_the_same_rounds_and_ended(fake_torchserve: Path) -> None:
    command = [sys.executable, str(RUN), "--smoke", "--client", "asyncio"]
    command += ["--torchserve", str(fake_torchserve)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr

    for goal in ("1 connection: p50 / TorchServe's", "32 connections: requests/s / TorchServe's"):
        assert rows(done.stdout)[f"echo, {goal}"][-1] in ("met", "**not met**")
    table = rows(done.stdout.partition("### Echo beside TorchServe")[2].partition("###")[0])
    assert list(table) == ["connections", "---", "1", "32"]
    for flambeau, torchserve, ratio, *_ in (table["1"], table["32"]):
        measured = float(flambeau.replace(",", "")) / float(torchserve.replace(",", ""))
        assert float(ratio.split()[0]) == pytest.approx(measured, rel=0.1, abs=0.02)

    pids = [int(pid) for pid in (fake_torchserve / "pids").read_text().split()]
    assert len(pids) == 3
    assert not [pid for pid in pids if runs(pid)]


class Refusing(BaseHTTPRequestHandler):
    """Answers every request 404 and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: hundreds of lines would tell nobody anything."""


@pytest.fixture
def refusing_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.mark.parametrize("tool", ["asyncio", "wrk"])
def test_answers_that_are_not_2xx_fail_the_run(
    tool: str, refusing_url: str, tmp_path: Path
) -> None:
    if tool == "wrk" and shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    body = tmp_path / "body.json"
    body.write_text("{}")
    code = (
        "from pathlib import Path; from load import Load, Target; "
        f"Load({tool!r}).window(Target({refusing_url!r}, Path({str(body)!r}), 'text/plain'), 2, 1)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, cwd=RUN.parent
    )
    assert done.returncode == 1
    assert "answers that are not 2xx" in done.stderr


@pytest.mark.timeout(90)
def test_a_tiny_overload_is_measured_and_judged() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "overload.py")]
    command += ["--seconds", "0.4", "--milliseconds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr
    table = rows(done.stdout)
    verdicts = [cells for first, cells in table.items() if first.startswith("default: ")]
    assert len(verdicts) == 5
    assert verdicts[-1] == ["0", "met"], "each is answered, and refusals say when to come again"


def test_batching_is_compared_with_an_oracle() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "batching.py")]
    command += ["--requests", "200", "--only", "8 clients, constant"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    oracle, p99, ratio, *_ = rows(done.stdout)["8 clients, constant"]
    assert oracle.startswith("8, ")
    assert 10.0 <= float(p99) < 20.0
    assert 0.5 < float(ratio) < 3.0
    assert " of 1 workloads" in done.stdout


@pytest.mark.timeout(90)
def test_what_a_latency_target_does_is_simulated() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "latency_target.py")]
    command += ["--requests", "200", "--only", "constant"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr
    *table, _, said = done.stdout.splitlines()
    lines = [line.strip("| ").split(" | ") for line in table[2:]]
    assert len(lines) == 45
    assert said.startswith("Of 45 rows ")
    one_by_one = [cells for cells in lines if cells[:2] == ["Poisson 0.1, constant", "20"]]
    assert one_by_one[0][2].startswith("100.0%, ")


@pytest.mark.timeout(90)
def test_a_little_growth_is_measured_from_every_side() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "growth.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("### ")[1:]
    titles = [part.splitlines()[0] for part in parts]
    assert titles == ["Models", "Workers", "At once", "Queue", "Soak"]
    models, workers, at_once, queue, soak = parts
    assert list(rows(models)) == ["models", "1", "4"]
    assert list(rows(workers)) == ["models", "1", "2"]
    assert list(rows(at_once)) == ["registrations at once", "2"]
    assert {"fifo", "lifo_on_overload", "priority", "deadline"} < set(rows(queue))
    assert "given up" not in queue
    assert "bytes per 1,000 requests" in soak
