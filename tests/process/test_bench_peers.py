"""Servers are measured in turn by the same client; what cannot be is named, never left out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# A benchmark of "servers" that this Python can be: no environment is installed for them.
DRIVE = """
import sys
from pathlib import Path
import bench_peers, peers.commands, peers.environments, peers.servers, peers.workloads

FAKE = r'''
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Sum(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    asked = 0
    def do_POST(self):
        values = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["values"]
        if os.environ["WORKLOAD"] == "stream":
            return self.stream(values)
        if os.environ["WORKLOAD"] == "echo":
            values = [sum(values) + float(sys.argv[1])]
        Sum.asked += 1
        self.answer(503 if sys.argv[2] == "fails" and Sum.asked > 20 else 200, values)
    def answer(self, status, values):
        text = json.dumps({"answer": values}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def stream(self, values):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for value in values:
            piece = b"%.1f " % value
            self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(piece), piece))
            self.wfile.flush()
            time.sleep(0.002)
        self.wfile.write(b"0\\r\\n\\r\\n")
    def do_PUT(self):
        self.answer(200, [])
    def do_GET(self):
        text = json.dumps([{"workers": [{"status": "READY"}] * 2}]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_):
        pass

for port in os.environ["PORTS"].split(",")[:2]:
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Sum)
    threading.Thread(target=server.serve_forever).start()
'''

def server(error, *more, **others):
    command = [sys.executable, "-c", FAKE, error, *more, "-"]
    return peers.commands.Server("/", lambda place: command, **others)

def install(name):
    if name == "torchserve":
        raise bench_peers.BenchmarkError("java is not installed.")

bench_peers.install = install
bench_peers.versions = lambda names: {"torch": "9.8.7"}
peers.workloads.python_of = lambda name: Path(sys.executable)
known = peers.commands.SERVERS
known.update(
    flambeau=server("0", scales=True),
    mosec=server("0", cannot="it has no tongue"),
    litserve=server("1"),
    bentoml=server("0", "fails"),
)
raise SystemExit(bench_peers.main())
"""


def _bench(folder: Path, *options: str) -> tuple[str, list[dict[str, Any]]]:
    """The report and the figures of a quick run."""
    figures = folder / "figures.json"
    quick = [
        "--starts",
        "2",
        "--seconds",
        "0.3",
        "--warm-up",
        "0.1",
        "--client",
        "asyncio",
        "--blocks",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVE, *quick, "--json", str(figures), *options],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(figures.read_text())["samples"]


@pytest.mark.timeout(170)
def test_servers_take_turns_and_failures_are_reported(tmp_path: Path) -> None:
    servers = "flambeau,mosec,litserve,torchserve"
    options = ["--workloads", "echo", "--connections", "8", "--rounds", "2"]
    report, samples = _bench(tmp_path, "--peers", servers, *options)
    assert "- torchserve left out: java is not installed." in report
    wrong = "litserve, echo: the answer is [8.5] instead of [7.5]."
    assert f"- round 1, {wrong}" in report
    assert "- round 2, litserve, " not in report, "it is not started again"
    assert report.count(f"- {wrong}") == 2, "it is tried twice beside the others"
    ahead = "requests/s / that of every other, 8 connections and more"
    assert f"| {ahead}; worst: echo, 8 connections, mosec |" in report
    assert "| bodies of 16 MB | - | - | at least 1.00 GB/s | not measured |" in report
    assert "torch 9.8.7. Load by flambeau bench" in report

    turns = [each["server"] for each in samples if (each["what"], each["at"]) == ("rate", "8")]
    assert turns[:4] == ["flambeau", "mosec", "mosec", "flambeau"], "the order shifts by round"
    assert {each["what"] for each in samples} >= {"start", "idle PSS", "loaded PSS", "cpu", "p99"}
    assert {each["server"] for each in samples if each["what"] == "scale-up"} == {"flambeau"}
    offered = {each["at"]: each["value"] for each in samples if each["what"] == "offered"}
    assert "half" in offered
    assert max(offered.values()) <= 5000, "the client cannot do more"


@pytest.mark.timeout(170)
def test_streams_are_timed_until_the_first_piece(tmp_path: Path) -> None:
    options = ["--workloads", "stream", "--connections", "2,512", "--rounds", "1"]
    report, samples = _bench(tmp_path, "--peers", "flambeau,mosec", *options)
    assert "- mosec, stream left out: it has no tongue." in report
    assert "stream: p50 ms until the first piece, by connections" in report
    (first,) = (each["value"] for each in samples if each["what"] == "first p50")
    (whole,) = (each["value"] for each in samples if each["what"] == "p50")
    assert 0 < first < whole
    assert {each["at"] for each in samples if each["what"] == "rate"} == {"2"}, "512 are too many"


@pytest.mark.timeout(170)
def test_windows_with_errors_keep_their_figures(tmp_path: Path) -> None:
    options = ["--workloads", "echo", "--connections", "8", "--rounds", "1", "--no-open-loop"]
    report, samples = _bench(tmp_path, "--peers", "flambeau,bentoml", *options)
    assert "echo: answers that failed" in report
    errors = {each["server"]: each["value"] for each in samples if each["what"] == "errors"}
    assert errors["flambeau"] == 0 < errors["bentoml"]
    rates = {each["server"] for each in samples if each["what"] == "rate"}
    assert rates == {"flambeau", "bentoml"}

    again, kept = _bench(tmp_path, "--peers", "flambeau,bentoml", *options, "--resume")
    assert kept == samples, "there was nothing left to measure"
    assert again == report


TURNS = """
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from load import Load, Target

seen = []

class Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        seen.append((self.headers["Content-Type"], body.decode()))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Recorder)
threading.Thread(target=server.serve_forever, daemon=True).start()
folder = Path(sys.argv[2])
for name in "abc":
    (folder / name).write_text(f"this is {name}")
target = Target(f"http://127.0.0.1:{server.server_port}/", folder, "text/x-turn")
Load(sys.argv[1]).window(target, 1, 0.3)
assert {kind for kind, _ in seen} == {"text/x-turn"}
first = [text for _, text in seen[:6]]
# wrk itself asks for one before it begins.
assert first[:3] == first[3:] and sorted(first[:3]) == [f"this is {each}" for each in "abc"], first
"""


@pytest.mark.parametrize("tool", ["asyncio", "wrk"])
def test_bodies_of_a_folder_take_turns(tool: str, tmp_path: Path) -> None:
    if tool == "wrk" and shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    done = subprocess.run(
        [sys.executable, "-c", TURNS, tool, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
