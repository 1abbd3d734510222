"""API keys of a real server."""

from __future__ import annotations

import json
import subprocess

import pytest
from real_server import RealServer, wait_for

from flambeau.frontend.api_keys import digest_text

NOSY = """
import os

def handle(data, context):
    if data is None:
        return None
    return [",".join(sorted(os.environ)) for _ in data]
"""
OPERATOR, CLIENT = {"Authorization": "Bearer operator-key"}, {"Authorization": "Bearer client-key"}


def entry(name: str, *scopes: str) -> dict[str, object]:
    return {"name": name, "sha256": digest_text(f"{name}-key"), "scopes": list(scopes)}


@pytest.fixture
def server(tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([entry("client", "infer")]))
    settings = {"api_keys_file": keys, "load_models": "nosy.mar", "default_workers_per_model": 1}
    made = RealServer(tmp_path, (), settings)
    made.store.mar("nosy", {"handler.py": NOSY})
    made.environ["FLAMBEAU_API_KEYS"] = json.dumps([entry("operator", "manage", "metrics")])
    made.environ["FLAMBEAU_API_KEY"] = "client-key"
    yield made.start()
    made.stop()


def test_keys_are_asked_for_kept_from_workers_and_read_again_when_they_change(server):
    def ask(listener: str, target: str, headers: dict[str, str]) -> int:
        return server.request("GET", target, headers=headers, listener=listener).status

    assert ask("inference", "/ping", {}) == 200
    assert ask("inference", "/predictions/nosy", {}) == 401
    assert ask("inference", "/predictions/nosy", OPERATOR) == 403
    assert ask("management", "/models", CLIENT) == 403
    assert ask("management", "/models", OPERATOR) == 200
    assert ask("metrics", "/metrics", OPERATOR) == 200
    answer = server.request("POST", "/predictions/nosy", b"", CLIENT)
    assert answer.status == 200
    assert "PATH" in answer.body.decode().split(",")
    assert "FLAMBEAU_API_KEY" not in answer.body.decode()

    keys = server.base / "keys.json"
    draft = keys.with_suffix(".draft")
    draft.write_text(json.dumps([entry("another", "infer")]))
    draft.replace(keys)
    wait_for(
        lambda: ask("inference", "/predictions/nosy", CLIENT) == 401, 10, "the end of the old key"
    )
    another = {"Authorization": "Bearer another-key"}
    assert ask("inference", "/predictions/nosy", another) == 200
    assert ask("management", "/models", OPERATOR) == 200
    for secret in ("client-key", "operator-key", "another-key"):
        assert secret not in server.log()


@pytest.mark.parametrize("name", ["management", "metrics"])
def test_an_open_listener_without_keys_does_not_start(tmp_path, name):
    made = RealServer(tmp_path, (f"--{name}-address=http://0.0.0.0:0",), {})
    try:
        done = subprocess.run(
            made.command(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=made.environ,
        )
    finally:
        made.stop()
    assert done.returncode == 1
    assert f"{name}_address=http://0.0.0.0:0: anyone who can reach" in done.stderr
    assert "allow_open_listeners=true" in done.stderr
