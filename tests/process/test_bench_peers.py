"""Servers are measured in turn by the same client; what cannot be is named, never left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A benchmark of two "servers" that this Python can be: no environment is installed for them.
DRIVE = """
import sys
from pathlib import Path
import bench_peers, peers.commands, peers.environments, peers.servers, peers.workloads

FAKE = '''
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Sum(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = [sum(json.loads(body)["values"]) + float(sys.argv[1])]
        text = json.dumps({"answer": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Sum).serve_forever()
'''

def server(error):
    return peers.commands.Server("/", lambda place: [sys.executable, "-c", FAKE, error])

def install(name):
    if name == "torchserve":
        raise bench_peers.BenchmarkError("java is not installed.")

bench_peers.install = install
peers.workloads.python_of = lambda name: Path(sys.executable)
known = peers.commands.SERVERS
known.update(flambeau=server("0"), mosec=server("0"), litserve=server("1"))
raise SystemExit(bench_peers.main())
"""


@pytest.mark.timeout(90)
def test_servers_take_turns_and_failures_are_reported(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-c", DRIVE, "--peers", "flambeau,mosec,litserve,torchserve"]
    command += ["--workloads", "echo", "--connections", "2,8", "--rounds", "2"]
    command += ["--seconds", "0.3", "--warm-up", "0.1", "--client", "asyncio", "--blocks", "1"]
    done = subprocess.run(
        [*command, "--json", str(figures)],
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
    )
    assert done.returncode == 0, done.stderr
    report = done.stdout
    assert "- torchserve left out: java is not installed." in report
    assert "round 1, litserve, echo: the answer is [8.5] instead of [7.5]." in report
    assert "| echo, 8 connections: requests/s / that of mosec, the best |" in report

    samples = json.loads(figures.read_text())["samples"]
    turns = [each["server"] for each in samples if (each["what"], each["at"]) == ("rate", "8")]
    assert turns == ["flambeau", "mosec", "mosec", "flambeau"], "the order shifts by round"
    assert {each["what"] for each in samples} >= {"start", "idle PSS", "loaded PSS", "cpu", "p99"}
    offered = {each["at"] for each in samples if each["what"] == "offered"}
    assert offered <= {"half", "twice"}
