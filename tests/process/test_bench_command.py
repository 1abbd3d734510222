"""flambeau bench against a real server."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from real_server import COMMAND, RealServer, environment, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable


def bench(server: RealServer, name: str, *arguments: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "bench", name, "--url", server.addresses["inference"], *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())


def figures(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    return dict(json.loads(out))


def test_what_it_counts_is_what_the_server_answered(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    arguments = ("--data", '{"answer": "yes"}', "--requests", "60", "--json")
    for how in (["--connections", "3"], ["--rate", "300"]):
        before = server.metric("ts_inference_requests_total", model_name=name)
        report = figures(bench(server, name, *arguments, *how))
        assert (report["requests"], report["expected"], report["errors"]) == (60, 60, 0)
        after = server.metric("ts_inference_requests_total", model_name=name)
        assert after - before == 60


def test_errors_of_the_server_are_told(server: RealServer) -> None:
    with bench(server, "nobody", "--requests", "5") as process:
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Model not found: nobody" in out


def test_ctrl_c_prints_what_was_measured(server: RealServer, model: Callable[..., str]) -> None:
    name = model()
    with bench(server, name, "--duration", "60", "--data", "{}", "--json") as process:
        wait_for(
            lambda: server.metric("ts_inference_requests_total", model_name=name) > 10,
            20,
            "some requests",
        )
        process.send_signal(signal.SIGINT)
        report = figures(process)
    assert report["expected"] > 0
    assert report["seconds"] < 60
